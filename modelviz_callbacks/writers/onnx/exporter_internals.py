"""Every private name of torch and of its ONNX exporter that the writers of ONNX use.

As ``tracing/capture/torch_internals.py`` is for the recording, which the writers may not import.
Where a name without a public equal is gone, `MissingInternal` says so, and ``graph.onnx`` shows
the ops as torch calls them; the other files are as always.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.multiprocessing import reductions

from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.libraries import missing_library


class MissingInternal(WriterError):
    """This torch lacks a private name that has no public equal, or a library that it is made of."""


class Internal(NamedTuple):
    """One private name.

    Attributes:
        path: Where it is; below a class, of that class's objects.
        since: The oldest release of torch known to have it.
        use: What it is for.
        is_vital: Whether ``graph.onnx`` can only show the ops as torch calls them without it.
    """

    path: str
    since: str
    use: str
    is_vital: bool = True


_EXPORTER = "torch.onnx._internal.exporter"
_MODULE = "torch.nn.Module"

INTERNALS: tuple[Internal, ...] = (
    Internal(f"{_EXPORTER}._registration.ONNXRegistry", "2.8", "the table of translations"),
    Internal(f"{_EXPORTER}._decomp.get_onnx_implemented_overloads", "2.8", "what it translates"),
    Internal(
        f"{_EXPORTER}._decomp.create_onnx_friendly_decomposition_table",
        "2.8",
        "how the rest is taken apart",
    ),
    Internal(f"{_EXPORTER}._fx_passes.remove_assertion_nodes", "2.8", "drops checks"),
    Internal(f"{_EXPORTER}._fx_passes.insert_type_promotion_nodes", "2.8", "makes types equal"),
    Internal(f"{_EXPORTER}._core._translate_fx_graph", "2.8", "translates a program"),
    Internal("torch._subclasses.FakeTensorMode", "2.0", "runs a call without data"),
    Internal(f"{_MODULE}.__fx_already_patched", "2.8", "keeps tracing from patching it", False),
    Internal("torch.Tensor._version", "2.0", "which tensors a call wrote to"),
    Internal("torch.UntypedStorage._cdata", "2.0", "which tensors share memory", False),
    Internal("torch._ops.OpOverload", "2.0", "the class of torch.ops.aten.add.Tensor", False),
    Internal("torch._ops.OpOverload._schema", "2.0", "whether an op writes"),
    Internal("torch._C._set_grad_enabled", "2.0", "switches gradients in a program", False),
    Internal("torch._ops.OpOverloadPacket", "2.0", "the class of torch.ops.aten.add", False),
    Internal("torch._grouped_mm", "2.8", "for shapes that have no translation", False),
    Internal("torch._pack_padded_sequence", "2.0", "what packing calls, to translate it", False),
    Internal("torch._pad_packed_sequence", "2.0", "what padding calls, to translate it", False),
    Internal("torch._foreach_add", "2.0", "one of those over lists, to translate them", False),
    Internal("torch._standard_gamma", "2.0", "what gamma distributions call", False),
    Internal("torch._sample_dirichlet", "2.0", "what Dirichlet distributions call", False),
    Internal(
        "torch.distributions.Distribution._validate_args",
        "2.0",
        "whether distributions look at values, which no exporter can",
        False,
    ),
)

# Functions by the paths under which they are looked for; those that are gone are called nowhere.
PACK_PADDED = "torch._pack_padded_sequence"
PAD_PACKED = "torch._pad_packed_sequence"
FOREACH = "torch._foreach_"
STANDARD_GAMMA = "torch._standard_gamma"
SAMPLE_DIRICHLET = "torch._sample_dirichlet"
# The keyword of fractional pooling for what it is to take in place of drawing.
POOL_SAMPLES = "_random_samples"

_BY_PATH = {internal.path: internal for internal in INTERNALS}
_LAST_STEP = {path: path.rpartition(".")[2] for path in _BY_PATH}
_ABSENT: Any = object()


def _find(path: str, instead: Any = _ABSENT) -> Any:
    """What stands at a path; something else, if there is any, where nothing does.

    Raises:
        MissingInternal: Nothing does, and there is nothing else.
    """
    home, _, name = path.rpartition(".")
    found, reason = _ABSENT, ""
    try:
        found = getattr(importlib.import_module(home), name, _ABSENT)
    except ImportError as error:
        reason = missing_library(error)  # what torch's exporter needs, too, and is not torch
        owner: Any = torch
        for step in home.split(".")[1:]:
            owner = getattr(owner, step, _ABSENT)
        found = getattr(owner, name, _ABSENT)
    if found is not _ABSENT:
        return found
    return _missing(path, reason) if instead is _ABSENT else instead


def _missing(path: str, reason: str = "") -> Any:
    raise MissingInternal(reason or f"torch {torch.__version__} has no {_BY_PATH[path].path}")


def _member(path: str, owner: Any) -> Any:
    """A private attribute of an object, or `MissingInternal`."""
    found = getattr(owner, _LAST_STEP[path], _ABSENT)
    return _missing(path) if found is _ABSENT else found


# --- the exporter


@cache
def registry() -> Any:
    """The exporter's table of translations; takes a second to build.

    Raises:
        MissingInternal: As everything here.
    """
    kind = _find(f"{_EXPORTER}._registration.ONNXRegistry")
    logger = logging.getLogger(kind.__module__)
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it names what it lacks without torchvision
    try:
        return kind.from_torchlib()
    finally:
        logger.setLevel(level)


def decompositions() -> dict[Any, Any]:
    """How ops are taken apart that the table does not translate."""
    implemented = _find(f"{_EXPORTER}._decomp.get_onnx_implemented_overloads")
    table = _find(f"{_EXPORTER}._decomp.create_onnx_friendly_decomposition_table")
    return dict(table(set(implemented(registry()))))


def remove_assertion_nodes(module: fx.GraphModule) -> fx.GraphModule:
    """Drops the checks of a program, which no file needs."""
    made: fx.GraphModule = _find(f"{_EXPORTER}._fx_passes.remove_assertion_nodes")(module)
    return made


def insert_type_promotion_nodes(module: fx.GraphModule) -> None:
    """Makes the types of each call's tensors equal, as ONNX wants them."""
    _find(f"{_EXPORTER}._fx_passes.insert_type_promotion_nodes")(module)


def translate_fx_graph(graph: fx.Graph, model: Any, onnx_graph: Any) -> None:
    """Puts a program's calls into the graph of a model, each in standard ops."""
    _find(f"{_EXPORTER}._core._translate_fx_graph")(
        graph,
        model,
        graph_like=onnx_graph,
        owned_graphs={},
        lower="at_conversion",
        registry=registry(),
    )


@contextlib.contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Lets new distributions look at no values: there are none while a model is exported."""
    kind = torch.distributions.Distribution
    before = getattr(kind, _LAST_STEP["torch.distributions.Distribution._validate_args"], True)
    kind.set_default_validate_args(False)
    try:
        yield
    finally:
        kind.set_default_validate_args(before)


@contextlib.contextmanager
def modules_as_they_are() -> Iterator[None]:
    """Keeps a trace from giving `torch.nn.Module` other methods for as long as it takes.

    A single call needs none of them, and to set one Python goes over every subclass there is.
    """
    mark = _LAST_STEP[f"{_MODULE}.__fx_already_patched"]
    methods = [getattr(torch.nn.Module, name) for name in ("__getattr__", "__call__")]
    unmarked = [method for method in methods if not hasattr(method, mark)]
    for method in unmarked:
        setattr(method, mark, True)
    try:
        yield
    finally:
        for method in unmarked:
            delattr(method, mark)


def fake_tensor_mode(**options: Any) -> Any:
    """A mode in which tensors have no data."""
    return _find("torch._subclasses.FakeTensorMode")(**options)


# --- tensors and ops


def version_of(tensor: torch.Tensor) -> int:
    """A number that writes in place raise."""
    return int(_member("torch.Tensor._version", tensor))


def storage_key(storage: torch.UntypedStorage) -> int:
    """A number for a storage, without memory or not, while it is alive."""
    found = getattr(storage, _LAST_STEP["torch.UntypedStorage._cdata"], None)
    if found is None:
        found = reductions.StorageWeakRef(storage).cdata  # type: ignore[no-untyped-call]
    return int(found)


OpOverload: Any = _find("torch._ops.OpOverload", type(torch.ops.aten.add.Tensor))
OpOverloadPacket: Any = _find("torch._ops.OpOverloadPacket", type(torch.ops.aten.add))


def is_mutable(op: Any) -> bool:
    """Whether an overload may write to its arguments."""
    return bool(_member("torch._ops.OpOverload._schema", op).is_mutable)


set_grad_enabled: Callable[[bool], Any] = _find(
    "torch._C._set_grad_enabled", torch.set_grad_enabled
)
"""How a program switches gradients, as the lowering writes it."""


def grouped_mm(*args: Any) -> torch.Tensor:
    """Torch's own product of groups of rows with a matrix each."""
    made: torch.Tensor = _find("torch._grouped_mm")(*args)
    return made


def code_before_compiling(function: Any) -> Any:
    """The code that a compiled function was made of; ``None`` of any other."""
    return getattr(function, "_torchdynamo_orig_callable", None)
