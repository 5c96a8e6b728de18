"""The model graph: what ran in one forward pass, as frozen plain data.

What it is made of is in ``modelviz_callbacks.graph.parts``.

Standard library only: nothing here knows torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from modelviz_callbacks.errors import GraphFormatError
from modelviz_callbacks.graph.json_format import dumps, loads
from modelviz_callbacks.graph.parts import NODE_KINDS as NODE_KINDS
from modelviz_callbacks.graph.parts import ModuleCall as ModuleCall
from modelviz_callbacks.graph.parts import Node as Node
from modelviz_callbacks.graph.parts import NodeKind as NodeKind
from modelviz_callbacks.graph.parts import Note as Note
from modelviz_callbacks.graph.parts import ParameterInfo as ParameterInfo
from modelviz_callbacks.graph.parts import Port as Port
from modelviz_callbacks.graph.parts import Source as Source
from modelviz_callbacks.graph.values import Ref, TensorSpec

# Who tells a graph as text, by name: a graph knows nothing of those who look at it, and is
# loaded without them.
_TEXT_VIEW = ("modelviz_callbacks.view.text_tree", "tree_text")


@dataclass(frozen=True, repr=False)
class ModelGraph:
    """What ran in one forward pass of a model.

    Attributes:
        name: What the graph is called; the model's class name unless the user chose one.
        class_name: Qualified class of the model.
        nodes: Every node, in execution order: inputs first, a parameter, buffer or constant
            before its first use, outputs last.
        modules: The module calls and containers in order of entry, parents before children.
            The model's own forward is not among them: it is the scope ``""``.
        parameters: Every parameter of the model, used or not, in the model's order.
        notes: What is worth knowing about it.
        partial: Whether the forward ended early, by an exception; the graph holds what ran.
        torch_version: The torch that ran it.

    Example:
        >>> graph = trace(nn.Linear(4, 2), torch.ones(3, 4)).graph
        >>> graph
        <ModelGraph Linear: 1 ops, 10 parameters>
    """

    name: str
    class_name: str
    nodes: tuple[Node, ...] = ()
    modules: tuple[ModuleCall, ...] = ()
    parameters: tuple[ParameterInfo, ...] = ()
    notes: tuple[Note, ...] = ()
    partial: bool = False
    torch_version: str = ""

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by their names.

        Example:
            >>> graph = trace(nn.Linear(4, 2), torch.ones(3, 4)).graph
            >>> graph.by_name["weight"].kind
            'parameter'
        """
        return {node.name: node for node in self.nodes}

    @cached_property
    def module_by_name(self) -> Mapping[str, ModuleCall]:
        """Module calls by their names.

        Example:
            >>> graph = trace(nn.Sequential(nn.Linear(4, 2)), torch.ones(3, 4)).graph
            >>> graph.module_by_name["0_Linear"].path
            '0'
        """
        return {call.name: call for call in self.modules}

    @cached_property
    def consumers(self) -> Mapping[Ref, tuple[Node, ...]]:
        """The nodes that read each tensor, in execution order, each once.

        Example:
            >>> graph = trace(nn.Linear(4, 2), torch.ones(3, 4)).graph
            >>> from modelviz_callbacks.graph import Ref
            >>> [node.name for node in graph.consumers[Ref("weight", 0)]]
            ['linear']
        """
        found: dict[Ref, dict[str, Node]] = {}
        for node in self.nodes:
            for ref in node.inputs:
                found.setdefault(ref, {})[node.name] = node
        return {ref: tuple(readers.values()) for ref, readers in found.items()}

    @cached_property
    def children(self) -> Mapping[str, tuple[ModuleCall, ...]]:
        """The module calls directly below each scope, in order of entry.

        Example:
            >>> graph = trace(nn.Sequential(nn.Linear(4, 2)), torch.ones(3, 4)).graph
            >>> [call.name for call in graph.children[""]]
            ['0_Linear']
        """
        found: dict[str, list[ModuleCall]] = {"": []}
        for call in self.modules:
            found.setdefault(call.name, [])
            found.setdefault(call.parent, []).append(call)
        return {name: tuple(calls) for name, calls in found.items()}

    def spec(self, ref: Ref) -> TensorSpec:
        """The tensor a reference stands for.

        Example:
            >>> graph = trace(nn.Linear(4, 2), torch.ones(3, 4)).graph
            >>> from modelviz_callbacks.graph import Ref
            >>> graph.spec(Ref("weight", 0)).shape
            (2, 4)
        """
        return self.by_name[ref.node].outputs[ref.index]

    def of_kind(self, *kinds: NodeKind) -> tuple[Node, ...]:
        """The nodes of these kinds, in order.

        Example:
            >>> graph = trace(nn.Linear(4, 2), torch.ones(3, 4)).graph
            >>> [node.name for node in graph.of_kind("parameter")]
            ['weight', 'bias']
        """
        return tuple(node for node in self.nodes if node.kind in kinds)

    @property
    def ops(self) -> tuple[Node, ...]:
        """The nodes where something was computed (kinds ``op`` and ``opaque``).

        Example:
            >>> graph = trace(nn.Linear(4, 2), torch.ones(3, 4)).graph
            >>> [node.name for node in graph.ops]
            ['linear']
        """
        return self.of_kind("op", "opaque")

    def scopes_of(self, scope: str) -> Iterator[str]:
        """``scope`` and the scopes around it, innermost first, without the root ``""``.

        Example:
            >>> model = nn.Sequential(nn.Sequential(nn.Linear(4, 2)))
            >>> graph = trace(model, torch.ones(3, 4)).graph
            >>> list(graph.scopes_of("0_Sequential/0_Linear"))
            ['0_Sequential/0_Linear', '0_Sequential']
        """
        while scope:
            yield scope
            scope = self.module_by_name[scope].parent

    @property
    def parameter_count(self) -> int:
        """Number of parameter elements, tied ones counted once.

        Example:
            >>> graph = trace(nn.Linear(4, 2), torch.ones(3, 4)).graph
            >>> graph.parameter_count
            10
        """
        return sum(parameter.elements for parameter in self.parameters)

    @property
    def trainable_count(self) -> int:
        """Number of parameter elements that are trained, tied ones counted once.

        Example:
            >>> model = nn.Linear(4, 2)
            >>> _ = model.bias.requires_grad_(False)
            >>> trace(model, torch.ones(3, 4)).graph.trainable_count
            8
        """
        return sum(parameter.elements for parameter in self.parameters if parameter.trainable)

    def save(self, path: str | Path) -> None:
        """Writes the graph as JSON; see ``modelviz_callbacks.graph.json_format``.

        Args:
            path: The file; its folder must exist.

        Raises:
            OSError: The file cannot be written.

        Example:
            >>> graph = trace(nn.Linear(4, 2), torch.ones(3, 4)).graph
            >>> graph.save("graph.json")
            >>> ModelGraph.load("graph.json") == graph
            True
        """
        Path(path).write_text(dumps(self), encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> ModelGraph:
        """Reads a graph that `save` wrote.

        Args:
            path: The file.

        Returns:
            A graph equal to the one saved.

        Raises:
            OSError: The file cannot be read.
            GraphFormatError: It holds something else, a graph that breaks a rule, or a newer
                schema; the message is one sentence.

        Example:
            >>> graph = trace(nn.Linear(4, 2), torch.ones(3, 4)).graph
            >>> graph.save("graph.json")
            >>> ModelGraph.load("graph.json").parameter_count
            10
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise GraphFormatError(f"{path} is not a model graph: it is not text.") from error
        return loads(ModelGraph, text, origin=str(path))

    def __repr__(self) -> str:
        """One line: a prompt and a failed test show this, and a large graph is megabytes."""
        ops, parameters = f"{len(self.ops):,d} ops", f"{self.parameter_count:,d} parameters"
        return f"<ModelGraph {self.name}: {ops}, {parameters}>"

    def __str__(self) -> str:
        """The module tree with shapes, parameter counts and skip connections."""
        home, name = _TEXT_VIEW
        text: str = getattr(importlib.import_module(home), name)(self)
        return text
