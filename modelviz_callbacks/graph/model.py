"""The model graph: what ran in one forward pass, as frozen plain data.

A graph is a list of nodes in execution order and a list of module calls (scopes) that
nest. A node is one of a closed set of kinds:

========== =====================================================================
kind       meaning
========== =====================================================================
input      a tensor handed to the recorded code; ``path`` is where it stood
           among the arguments (``x``, ``batch['image']``)
parameter  an ``nn.Parameter`` of the model; ``path`` is its qualified name,
           ``aliases`` the other names it is tied to
buffer     a buffer of the model; ``path`` and ``aliases`` likewise
constant   a tensor that existed before and is neither of these (a closure, a
           global, something made outside torch)
op         one torch call as the user wrote it
opaque     a call whose inside cannot be seen (a scripted module, an extension);
           it joins its inputs to its outputs
output     a tensor that the recorded code returned; ``path`` is where it stood
           in the result (``output``, ``out.logits``)
========== =====================================================================

Only ``op`` and ``opaque`` nodes have a ``target``, a ``source`` and more than one output.
``input``, ``parameter``, ``buffer`` and ``constant`` nodes have exactly one output and no
arguments; an ``output`` node has exactly one argument, a `Ref`, and no outputs.

Standard library only: nothing here knows torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from modelviz_callbacks.graph.json_format import dumps, loads
from modelviz_callbacks.graph.values import Argument, Items, Ref, SliceValue, TensorSpec, refs

# Who tells a graph as text, by name: a graph knows nothing of those who look at it, and is
# loaded without them.
_TEXT_VIEW = ("modelviz_callbacks.view.text_tree", "tree_text")

NodeKind = Literal["input", "parameter", "buffer", "constant", "op", "opaque", "output"]
NODE_KINDS: tuple[str, ...] = get_args(NodeKind)


@dataclass(frozen=True, slots=True)
class Source:
    """The line of the user's code that an op comes from.

    Attributes:
        file: Path relative to the working directory where it lies below it, else from the
            package's folder on (``torchvision/models/resnet.py``), else its name alone;
            ``notebook cell`` for what was typed into a notebook.
        line: Line number, from 1.
        function: Name of the function around it.
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Node:
    """One node; which fields mean something depends on its kind (see the module's text).

    Attributes:
        name: Unique in the graph: the scope's name, a slash and a label
            (``cnn/0_Conv2d/conv2d``). Never ends in ``:`` and digits, has no empty part.
        kind: One of `NODE_KINDS`.
        op: What people call it: ``conv2d``, ``add``; for the other kinds the kind itself.
        scope: Name of the module call it ran in; ``""`` is the model's own forward.
        outputs: The tensors it made. An in-place op makes a new version of its target.
        arguments: In the order of the call.
        target: Qualified name of the function called: ``torch.conv2d``.
        path: See the kinds; ``""`` for ops, but for those of a backward graph that gradients end at
            (``AccumulateGrad``): the parameter there.
        aliases: Other qualified names of the same parameter or buffer.
        source: Where in the user's code, if known.
        writes: Indices into ``outputs`` that are new versions of existing memory.
        reads_value: Whether Python looked at the values here (``item``, ``bool``): on
            another batch the graph may be a different one from here on.
        flops: Floating point operations, a multiply-add counted as two; ``None``: no formula.
    """

    name: str
    kind: NodeKind
    op: str
    scope: str = ""
    outputs: tuple[TensorSpec, ...] = ()
    arguments: tuple[Argument, ...] = ()
    target: str = ""
    path: str = ""
    aliases: tuple[str, ...] = ()
    source: Source | None = None
    writes: tuple[int, ...] = ()
    reads_value: bool = False
    flops: int | None = None

    @property
    def label(self) -> str:
        """The name without its scope."""
        return self.name[len(self.scope) + 1 :] if self.scope else self.name

    @property
    def inputs(self) -> tuple[Ref, ...]:
        """Every tensor among the arguments, in order, duplicates kept."""
        found: list[Ref] = []
        for argument in self.arguments:
            value = argument.value
            # Asked of every node by everybody; a generator for each argument would cost more.
            if value.__class__ is Ref:
                found.append(value)
            elif isinstance(value, (tuple, SliceValue, Items)):
                found.extend(refs(value))
        return tuple(found)

    @property
    def is_call(self) -> bool:
        """Whether something was computed here (kinds ``op`` and ``opaque``)."""
        return self.kind in ("op", "opaque")


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor that enters or leaves a module call, and where it stood there."""

    path: str
    ref: Ref


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module, or a container that only groups the modules below it.

    Attributes:
        name: Unique among the calls: the chain of attribute names joined by slashes; a
            numbered child carries its class (``cnn/0_Conv2d``), a second call of the same
            module a number (``cnn/0_Conv2d_1``).
        path: Qualified name in the model (``cnn.0``); ``None`` for a module that is not part
            of the model (made in the forward, kept in a plain list).
        class_name: Qualified class, for example ``torch.nn.modules.conv.Conv2d``.
        parent: Name of the call around it; ``""`` for the model's own forward.
        call_index: 0 for the first call of this module, 1 for the second, ...
        called: False for a container (``ModuleList``, ``ModuleDict``) that never runs itself.
        training: The module's flag at that moment.
        inputs: Tensors among its arguments, named by the forward's signature.
        outputs: Tensors in its result.
    """

    name: str
    path: str | None
    class_name: str
    parent: str = ""
    call_index: int = 0
    called: bool = True
    training: bool = True
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()

    @property
    def type_name(self) -> str:
        """The class without its module: ``Conv2d``."""
        return self.class_name.rpartition(".")[2]

    @property
    def label(self) -> str:
        """The name without its parent's."""
        return self.name[len(self.parent) + 1 :] if self.parent else self.name


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """One parameter of the model, whether an op used it or not.

    Attributes:
        name: Qualified name; ``aliases`` are the other names of the same tensor.
        spec: Shape and dtype, as they were after the forward.
        trainable: Its ``requires_grad``.
        module: Qualified name of the module that owns it (``""`` for the model itself).
    """

    name: str
    spec: TensorSpec
    trainable: bool
    module: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """Something about the model worth knowing.

    Attributes:
        kind: A stable word for programs: ``unused-parameter``, ``partial``, ...
        subject: The parameter, module or node it is about; ``""`` for the whole graph.
        message: One sentence for people.
    """

    kind: str
    subject: str
    message: str


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
        return sum(parameter.spec.numel for parameter in self.parameters)

    @property
    def trainable_count(self) -> int:
        """Number of parameter elements that are trained, tied ones counted once.

        Example:
            >>> model = nn.Linear(4, 2)
            >>> _ = model.bias.requires_grad_(False)
            >>> trace(model, torch.ones(3, 4)).graph.trainable_count
            8
        """
        return sum(parameter.spec.numel for parameter in self.parameters if parameter.trainable)

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
            GraphFormatError: It holds something else, or a newer schema.

        Example:
            >>> graph = trace(nn.Linear(4, 2), torch.ones(3, 4)).graph
            >>> graph.save("graph.json")
            >>> ModelGraph.load("graph.json").parameter_count
            10
        """
        return loads(ModelGraph, Path(path).read_text(encoding="utf-8"), origin=str(path))

    def __repr__(self) -> str:
        """One line: a prompt and a failed test show this, and a large graph is megabytes."""
        ops, parameters = f"{len(self.ops):,d} ops", f"{self.parameter_count:,d} parameters"
        return f"<ModelGraph {self.name}: {ops}, {parameters}>"

    def __str__(self) -> str:
        """The module tree with shapes, parameter counts and skip connections."""
        home, name = _TEXT_VIEW
        text: str = getattr(importlib.import_module(home), name)(self)
        return text
