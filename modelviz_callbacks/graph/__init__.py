"""The model graph: frozen plain data, its names, its rules, its JSON. Standard library only."""

from modelviz_callbacks.graph.functions import home_of, without_functions
from modelviz_callbacks.graph.model import (
    ModelGraph,
    ModuleCall,
    Node,
    Note,
    ParameterInfo,
    Port,
    Source,
)
from modelviz_callbacks.graph.names import NameAllocator, clean_part, plain_text
from modelviz_callbacks.graph.validate import check, problems
from modelviz_callbacks.graph.values import (
    Argument,
    Items,
    PythonText,
    Ref,
    SliceValue,
    TensorSpec,
    refs,
)

__all__ = [
    "Argument",
    "Items",
    "ModelGraph",
    "ModuleCall",
    "NameAllocator",
    "Node",
    "Note",
    "ParameterInfo",
    "Port",
    "PythonText",
    "Ref",
    "SliceValue",
    "Source",
    "TensorSpec",
    "check",
    "clean_part",
    "home_of",
    "plain_text",
    "problems",
    "refs",
    "without_functions",
]
