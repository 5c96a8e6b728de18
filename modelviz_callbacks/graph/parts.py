"""What a model graph is made of: nodes, module calls, parameters, notes.

A graph is a list of nodes in execution order and a list of module calls (scopes) that
nest. A node is one of a closed set of kinds:

========== =====================================================================
kind       meaning
========== =====================================================================
input      a tensor handed to the recorded code; ``path`` is where it stood
           among the arguments (``x``, ``batch['image']``), ``aliases`` are the
           other places it stood at
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
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from modelviz_callbacks.graph.values import Argument, Items, Ref, SliceValue, TensorSpec, refs

NodeKind = Literal["input", "parameter", "buffer", "constant", "op", "opaque", "output"]
ScopeKind = Literal["module", "function"]
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
        scope: Name of the module call, or the function in it, that it ran in; ``""`` is the
            model's own forward. A node is named after the module call.
        outputs: The tensors it made. An in-place op makes a new version of its target.
        arguments: In the order of the call.
        target: Qualified name of the function called: ``torch.conv2d``.
        path: See the kinds; ``""`` for ops, but for those of a backward graph that gradients end at
            (``AccumulateGrad``): the parameter there.
        aliases: Other qualified names of the same parameter or buffer, or the other names of
            a tensor that is several inputs (``model(input_ids=x, labels=x)``).
        source: Where in the user's code, if known.
        writes: Indices into ``outputs`` that are new versions of existing memory.
        reads_value: Whether Python looked at the values here (``item``, ``bool``): on
            another batch the graph may be a different one from here on.
        flops: Floating point operations, a multiply-add counted as two; ``None``: no formula.
        kept_bytes: Bytes that it keeps for the backward and no op before it kept, without
            parameters and buffers; ``None``: not known.
        live_bytes: Most bytes of tensors that the forward has made and that are alive while it
            runs; ``None``: not known.
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
    kept_bytes: int | None = None
    live_bytes: int | None = None

    @property
    def label(self) -> str:
        """The name without its scope."""
        return _label(self.name, self.scope)

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


def _label(name: str, scope: str) -> str:
    """A name without the scope's, or without that of the module call that a function is in."""
    if not scope or name.startswith(f"{scope}/"):
        return name[len(scope) + 1 :] if scope else name
    return name.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor that enters or leaves a module call, and where it stood there."""

    path: str
    ref: Ref


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module or of a function, or a container that only groups modules.

    A function is one of the author's, between a module's forward and what runs in it.

    Attributes:
        name: Unique among the calls: the chain of attribute names joined by slashes; a
            numbered child carries its class (``cnn/0_Conv2d``), a second call of the same
            module a number (``cnn/0_Conv2d_1``). A function is named after the module call it is
            in (``attn/rotate_half``), a further call of it has a number, too.
        path: Qualified name in the model (``cnn.0``); ``None`` for a module that is not part
            of the model (made in the forward, kept in a plain list), and for a function.
        class_name: Qualified class, for example ``torch.nn.modules.conv.Conv2d``, or the
            function with its module.
        parent: Name of the call around it; ``""`` for the model's own forward.
        call_index: 0 for the first call of this module, 1 for the second, ...
        called: False for a container (``ModuleList``, ``ModuleDict``) that never runs itself.
        training: The module's flag at that moment.
        inputs: Tensors among its arguments, named by the forward's signature; of a function
            those that it reads and did not make, without names.
        outputs: Tensors in its result; of a function those it made that others read.
        attributes: The numbers among its public attributes (``num_heads``), for labels; of
            torch's own layers only what no argument of an op tells: heads, and how tensor
            parallelism has split the weight. An attribute without a name
            is a label that is ready.
        kind: ``module`` or ``function``.
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
    attributes: tuple[Argument, ...] = ()
    kind: ScopeKind = "module"

    @property
    def type_name(self) -> str:
        """The class without its module: ``Conv2d``."""
        return self.class_name.rpartition(".")[2]

    @property
    def label(self) -> str:
        """The name without its parent's."""
        return _label(self.name, self.parent)

    @property
    def is_function(self) -> bool:
        """Whether it is a call of a function."""
        return self.kind == "function"


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """One parameter of the model, whether an op used it or not.

    Attributes:
        name: Qualified name; ``aliases`` are the other names of the same tensor.
        spec: Shape and dtype, as they were after the forward.
        trainable: Its ``requires_grad``.
        module: Qualified name of the module that owns it (``""`` for the model itself).
        packed: How many elements are packed in it, where they are more than its shape says
            (4-bit weights in bytes); ``None``: it is what it says.
    """

    name: str
    spec: TensorSpec
    trainable: bool
    module: str
    aliases: tuple[str, ...] = ()
    packed: int | None = None

    @property
    def elements(self) -> int:
        """How many elements it has, those that are packed in others counted one by one."""
        return self.spec.numel if self.packed is None else self.packed


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
