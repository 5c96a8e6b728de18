"""The model graph: frozen plain data, its names, its rules, its JSON. Standard library only."""

from modelviz_callbacks.graph.check import check, problems
from modelviz_callbacks.graph.model import (
    Argument,
    Items,
    ModelGraph,
    ModuleCall,
    Node,
    Note,
    ParameterInfo,
    Port,
    PythonText,
    Ref,
    SliceValue,
    Source,
    TensorSpec,
    refs,
)
from modelviz_callbacks.graph.names import NameAllocator, clean_part

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
    "problems",
    "refs",
]
