"""What the recorder must know about a torch function before calling it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from torch.nn import functional

from modelviz_callbacks.tracing.capture.torch_internals import (
    HigherOrderOperator,
    OpOverload,
    OpOverloadPacket,
    is_mutable,
    set_grad_enabled,
)


class CallKind(IntEnum):
    """How a torch function is treated while recording."""

    SKIP = 0  # tells something about a tensor (shape, dtype): no node
    PURE = 1  # makes new tensors from its arguments
    WRITE = 2  # writes to its first argument
    CHECK = 3  # may write to an argument: compare version counters
    READ = 4  # hands a tensor's values to Python
    GRADIENT = 6  # reads .grad or switches requires_grad
    DUAL = 7  # makes a dual number of forward-mode differentiation, or takes one apart
    BACKWARD = 5  # runs the autograd engine: nothing in it belongs to the forward


# Properties that give a tensor, or that give a value.
_TENSOR_PROPERTIES = frozenset({"data", "T", "mT", "H", "mH", "real", "imag"})
_WRITABLE_PROPERTIES = frozenset({"data", "real", "imag"})

_INPLACE_OPERATORS = frozenset(
    f"__{name}__"
    for name in [
        "iadd",
        "isub",
        "imul",
        "imatmul",
        "itruediv",
        "ifloordiv",
        "imod",
        "ipow",
        "ilshift",
        "irshift",
        "iand",
        "ixor",
        "ior",
        "idiv",
        "setitem",
    ]
)

_READS = frozenset(
    [
        "item",
        "tolist",
        "numpy",
        "__bool__",
        "__nonzero__",
        "__int__",
        "__float__",
        "__complex__",
        "__index__",
        "__long__",
        "__array__",
        "__contains__",
        "__format__",
        "__repr__",
        "__dlpack__",
        "is_nonzero",
        "equal",
        "allclose",
    ]
)

# Ask about a tensor and return no tensor; called so often that encoding would be waste.
_QUESTIONS = frozenset(
    [
        "size",
        "dim",
        "stride",
        "numel",
        "nelement",
        "ndimension",
        "storage_offset",
        "is_contiguous",
        "is_floating_point",
        "is_complex",
        "is_signed",
        "is_conj",
        "is_neg",
        "is_inference",
        "is_same_size",
        "is_set_to",
        "element_size",
        "data_ptr",
        "storage",
        "untyped_storage",
        "get_device",
        "__len__",
        "__hash__",
        "__dir__",
        "__sizeof__",
        "type_as_",
        "has_names",
        "is_shared",
        "is_pinned",
        "result_type",
        "can_cast",
        "promote_types",
        "finfo",
        "iinfo",
        "sym_size",
        "_is_view",
        "is_distributed",
        "register_hook",
        "register_post_accumulate_grad_hook",
        "retain_grad",
        "is_tensor",
        "is_storage",
        "_assert",
        "_assert_async",
        "is_coalesced",
        "sparse_dim",
        "dense_dim",
        "_nnz",
        "_indices_",
        "device",
        "get_default_dtype",
        "names",
    ]
)

# Names that end in an underscore and write nothing.
_NOT_WRITES = frozenset({"_", "is_set_to_"})

# In-place in name, but the values stay as they are: no need to keep the old ones.
VALUE_KEEPING = frozenset(
    [
        "requires_grad_",
        "detach_",
        "share_memory_",
        "rename_",
        "squeeze_",
        "unsqueeze_",
        "t_",
        "transpose_",
        "swapaxes_",
        "swapdims_",
        "as_strided_",
    ]
)

_BACKWARD = frozenset({"backward"})

_DUALS = frozenset({"_make_dual", "_unpack_dual"})


def classify(func: Any) -> CallKind:
    """How to treat a torch function; only depends on the function."""
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        return _classify_property(func, name)
    if func is set_grad_enabled:
        return CallKind.SKIP  # each op says whether it ran with gradients
    if name in _BACKWARD:
        return CallKind.BACKWARD
    if name == "requires_grad_":
        return CallKind.GRADIENT
    if name in _READS:
        return CallKind.READ
    if name in _DUALS:
        return CallKind.DUAL
    if name in _QUESTIONS:
        return CallKind.SKIP
    if name in _INPLACE_OPERATORS:
        return CallKind.WRITE
    if name.endswith("_") and not name.endswith("__") and name not in _NOT_WRITES:
        return CallKind.WRITE
    # torch's own compiled functions write only where their names say so. Those written in
    # Python (`F.relu(x, inplace=True)`, batch norm's running statistics), and custom ops, may.
    if inspect.isfunction(func) or isinstance(
        func, (OpOverload, OpOverloadPacket, HigherOrderOperator)
    ):
        return CallKind.CHECK
    if name in ("batch_norm", "instance_norm", "native_batch_norm", "embedding_renorm"):
        return CallKind.CHECK
    return CallKind.PURE


def _classify_property(func: Any, name: str) -> CallKind:
    prop = property_name(func)
    if (prop == "requires_grad" and name == "__set__") or (prop == "grad" and name == "__get__"):
        return CallKind.GRADIENT
    if name == "__get__":
        return CallKind.PURE if prop in _TENSOR_PROPERTIES else CallKind.SKIP
    return CallKind.WRITE if prop in _WRITABLE_PROPERTIES else CallKind.SKIP


def property_name(func: Any) -> str:
    """The property that a ``__get__`` or ``__set__`` descriptor belongs to (``data``)."""
    owner = getattr(func, "__self__", None)
    return str(getattr(owner, "__name__", getattr(getattr(owner, "fget", None), "__name__", "")))


def written_state(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
    """The arguments among which a `CallKind.CHECK` function may find state to write to.

    The recorder keeps the old values of those that are state of the model, so that the
    program can be run again from the same state.

    Args:
        func: The function.
        args: Its positional arguments, encoded or not.
        kwargs: Its keyword arguments, likewise.
    """
    if func is functional.batch_norm or func is functional.instance_norm:
        return [*args[1:3], *_named(kwargs, "running_mean", "running_var")]
    if func in (functional.embedding, functional.embedding_bag):
        renormalises = _argument(args, kwargs, 3, "max_norm") is not None
        return [*args[:2], *_named(kwargs, "weight")] if renormalises else ()
    if isinstance(func, OpOverloadPacket):
        func = getattr(func, "default", None)
    if isinstance(func, OpOverload) and is_mutable(func):
        return (*args, *kwargs.values())
    return ()


def _named(kwargs: Mapping[str, Any], *names: str) -> list[Any]:
    return [kwargs[name] for name in names if name in kwargs]


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)
