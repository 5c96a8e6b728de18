"""Every private name of torch and of Lightning that the package uses; no other file has one.

Private names may go with any release. Each is looked up here by its path, and each has another
way for when it is gone: the package imports, records and writes what does not need it, and
`missing_parts` says for the report what is lost. Nothing outside of `INTERNALS` can be looked up.
"""

from __future__ import annotations

import contextlib
import importlib
import operator
import sys
from collections.abc import Callable, Mapping
from functools import cache
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from modelviz_callbacks.tracing.capture.frames import first_argument
from modelviz_callbacks.tracing.capture.internal_names import (
    FUNCTORCH_NAMES,
    INTERNALS,
    PYTREE_NAMES,
    Internal,
)

_BY_PATH = {internal.path: internal for internal in INTERNALS}
_LAST_STEP = {path: path.rpartition(".")[2] for path in _BY_PATH}
_ABSENT: Any = object()
_missing: dict[str, Internal] = {}


def missing_parts() -> list[str]:
    """What cannot be recorded because this torch lacks a private name, a sentence for each."""
    lost: dict[str, list[str]] = {}
    for internal in _missing.values():
        if internal.loss:
            lost.setdefault(internal.loss, []).append(internal.path)
    return [
        f"{loss} (torch {torch.__version__} has no {', '.join(paths)}.)"
        for loss, paths in lost.items()
    ]


def _find(path: str, instead: Any = None) -> Any:
    """What stands at a path below torch; something else, and a note of it, if nothing does."""
    found: Any = torch
    for name in path.split(".")[1:]:
        found = getattr(found, name, _ABSENT)
    if found is _ABSENT:
        _missing[path] = _BY_PATH[path]
        return instead
    return found


def _find_in(path: str) -> Any:
    """As `_find`, in a module that is slow to import and so is imported only now."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, _ABSENT)
    except Exception:  # also what importing does: torch._dynamo asks for the working directory
        found = _ABSENT
    if found is _ABSENT:
        _missing[path] = _BY_PATH[path]
        return None
    return found


def _member(path: str, owner: Any, instead: Any = None) -> Any:
    """A private attribute of an object."""
    found = getattr(owner, _LAST_STEP[path], _ABSENT)
    if found is _ABSENT:
        _missing[path] = _BY_PATH[path]
        return instead
    return found


# --- tensors


storage_address: Callable[[torch.Tensor], int] = _find(
    "torch._C._storage_address", lambda tensor: tensor.untyped_storage().data_ptr()
)
"""A number for a tensor's storage, to compare; raises what torch raises where it has none."""


class _NoVersions:
    """Stands for the descriptor of a tensor's version counter."""

    def __get__(self, tensor: torch.Tensor, kind: type[Any] | None = None) -> int:
        return 0


# A descriptor's own getter: about as quick as the attribute.
version_of: Callable[[torch.Tensor], int] = _find("torch.Tensor._version", _NoVersions()).__get__
"""A tensor's version counter; raises ``RuntimeError`` for one made in inference mode."""


_blocks_or_elements: Callable[[torch.Tensor], int] | None = _find("torch.Tensor._nnz")


def stored_elements(tensor: torch.Tensor) -> int | None:
    """How many elements a sparse tensor stores; ``None`` for other layouts and for blocks."""
    if _blocks_or_elements is None:
        return None
    if tensor.layout in (torch.sparse_csr, torch.sparse_csc):
        return _blocks_or_elements(tensor)
    if tensor.layout is torch.sparse_coo:
        dense: Any = tensor.shape[tensor.sparse_dim() :]
        return _blocks_or_elements(tensor) * dense.numel()  # type: ignore[no-any-return]
    return None


class _ModesAside:
    """Takes every function mode of this thread away for a while."""

    def __enter__(self) -> None:
        self._modes: list[TorchFunctionMode] = []
        while mode_stack():  # of which nothing is taken away where torch does not tell
            self._modes.append(pop_mode())

    def __exit__(self, *_: object) -> None:
        while self._modes:
            push_mode(self._modes.pop())


no_torch_function: Callable[[], contextlib.AbstractContextManager[Any]] = _find(
    "torch._C.DisableTorchFunction", _ModesAside
)
"""A context in which no function mode sees anything."""

OWN_FUNCTIONS: Any = _find("torch._C._VariableFunctions")
set_grad_enabled: Callable[[bool], Any] = _find(
    "torch._C._set_grad_enabled", torch.set_grad_enabled
)
"""Switches gradients on or off until it is called again."""


# --- autocast

AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu")
"""The kinds of device whose autocast state is looked at."""


def _some_autocast() -> bool:
    return any(torch.is_autocast_enabled(device) for device in AUTOCAST_DEVICES)


any_autocast: Callable[[], bool] = _find("torch._C._is_any_autocast_enabled", _some_autocast)
"""Whether anything is under autocast."""


def _enter_autocast(device: str, dtype: torch.dtype, enabled: bool, cache: bool) -> Any:
    context = torch.autocast(device, dtype, enabled, cache)
    context.__enter__()  # type: ignore[no-untyped-call]
    return context


def _exit_autocast(context: Any) -> None:
    context.__exit__(None, None, None)


enter_autocast: Callable[..., Any] = _find(
    "torch.amp.autocast_mode._enter_autocast", _enter_autocast
)
"""Enters autocast: device type, dtype, whether enabled, whether weights are cached; what
`exit_autocast` takes."""

exit_autocast: Callable[[Any], None] = _find(
    "torch.amp.autocast_mode._exit_autocast", _exit_autocast
)
"""Leaves autocast."""


# --- autograd

next_sequence_number: Callable[[], int] = _find("torch._C._autograd._get_sequence_nr", int)
"""Autograd's number for the node made next in this thread; 0 where it is not told."""


def sequence_number(node: Any) -> int:
    """The number of a node of autograd's graph; -1 where it is not told: no op's."""
    numbered = _member("torch.autograd.graph.Node._sequence_nr", node)
    return -1 if numbered is None else int(numbered())


def node_readers(kind: type[Any]) -> tuple[Callable[[Any], int], Callable[[Any], Any] | None]:
    """How a class of autograd's nodes tells of them; bound once a class, since there are many.

    Returns:
        What gives a node's number, -1 where it is not told; and what gives descriptions (shape,
        dtype, device) of the gradients that it takes, ``None`` where these are not told.
    """
    numbered = _member("torch.autograd.graph.Node._sequence_nr", kind, lambda _: -1)
    taken = _member("torch.autograd.graph.Node._input_metadata", kind)
    return numbered, None if taken is None else taken.__get__


SAVED_PREFIX = "_raw_saved_"
# Some class of nodes that keeps a tensor.
_AN_OP = type(torch.zeros(1, device="cpu", requires_grad=True).exp().grad_fn)


def saved_names(kind: type[Any]) -> list[str]:
    """What a class of nodes calls the tensors that it keeps for its backward."""
    if not any(name.startswith(SAVED_PREFIX) for name in dir(_AN_OP)):
        path = f"torch.autograd.graph.Node.{SAVED_PREFIX}*"
        _missing[path] = _BY_PATH[path]
    return [name.removeprefix(SAVED_PREFIX) for name in dir(kind) if name.startswith(SAVED_PREFIX)]


def saved_value(node: Any, name: str) -> Any:
    """What a node keeps under one of `saved_names`, packed.

    Raises:
        RuntimeError: A backward has freed it.
    """
    return getattr(node, SAVED_PREFIX + name)


backward_number: Callable[[], int] = _find("torch._C._current_graph_task_id", lambda: -1)
"""The number of the backward that runs in this thread now; -1: none does."""


def dual_level() -> int:
    """The innermost level of forward-mode differentiation that is open, from 0; -1: none."""
    return int(_find("torch.autograd.forward_ad._current_level", -1))


make_dual: Any = _find("torch._VF._make_dual")
"""Primal, tangent, ``level``: a dual number; ``None`` where torch lacks it, as the next."""

unpack_dual: Any = _find("torch._VF._unpack_dual")
"""Dual number, ``level``: primal and tangent."""

# Autograd nodes that hand a tensor on under another object: hooks on a module's backward. Only
# compared with; where torch calls them otherwise, a view stands in the graph.
PASS_THROUGH_NODES = frozenset(
    {
        "BackwardHookFunctionBackward",
        "RegisterPostBackwardFunctionBackward",
        "_BackwardHookFunctionBackward",
    }
)


# --- function modes

_stack: Callable[[], list[TorchFunctionMode]] | None = _find(
    "torch.overrides._get_current_function_mode_stack"
)
_pop: Callable[[], TorchFunctionMode] | None = _find("torch.overrides._pop_mode")
push_mode: Callable[[TorchFunctionMode], Any] = _find(
    "torch.overrides._push_mode", TorchFunctionMode.__enter__
)
"""Puts a mode on top of this thread's stack."""


def mode_stack() -> list[TorchFunctionMode] | None:
    """This thread's function modes, the outermost first; ``None`` where torch does not tell."""
    return _stack() if _stack is not None else None


count_dispatch_modes: Callable[[], int] = _find("torch._C._len_torch_dispatch_stack", int)
"""How many dispatch modes this thread has: they see whatever is computed in it."""


def has_modes() -> bool:
    """Whether this thread has function or dispatch modes, be it torch's own."""
    return bool(mode_stack()) or count_dispatch_modes() > 0


def users_modes() -> int:
    """How many function modes lie on this thread's stack above those of torch itself."""
    modes = mode_stack() or []
    own = 0
    while own < len(modes) and type(modes[own]).__module__.partition(".")[0] == "torch":
        own += 1
    return len(modes) - own


def pop_mode() -> TorchFunctionMode:
    """Takes the innermost mode off this thread's stack."""
    if _pop is not None:
        return _pop()
    top = (mode_stack() or [])[-1]
    TorchFunctionMode.__exit__(top, None, None, None)  # type: ignore[no-untyped-call]
    return top


# --- modules


def _table(path: str, instead: Callable[[Any], Any]) -> Callable[[torch.nn.Module], Any]:
    """What reads a table of any module; a call in Python for each would take longer than that."""
    found = _member(path, torch.nn.Module())
    return instead if found is None else operator.attrgetter(_LAST_STEP[path])


children_of: Callable[[torch.nn.Module], Mapping[str, torch.nn.Module | None]] = _table(
    "torch.nn.Module._modules", lambda module: dict(module.named_children())
)
"""The modules right below one, by name, a module under each of its names."""

parameters_of: Callable[[torch.nn.Module], Mapping[str, torch.nn.Parameter | None]] = _table(
    "torch.nn.Module._parameters", lambda module: dict(module.named_parameters("", False, False))
)
"""A module's own parameters by name."""

buffers_of: Callable[[torch.nn.Module], Mapping[str, torch.Tensor | None]] = _table(
    "torch.nn.Module._buffers", lambda module: dict(module.named_buffers("", False, False))
)
"""A module's own buffers by name."""


def fill_module(
    module: torch.nn.Module,
    children: Mapping[str, torch.nn.Module],
    parameters: Mapping[str, torch.Tensor],
    buffers: Mapping[str, torch.Tensor],
) -> None:
    """Gives an empty module what it consists of, under whatever names."""
    tables: tuple[tuple[str, Mapping[str, Any], Callable[..., None]], ...] = (
        ("torch.nn.Module._modules", children, module.register_module),
        ("torch.nn.Module._parameters", parameters, module.register_parameter),
        ("torch.nn.Module._buffers", buffers, module.register_buffer),
    )
    for path, parts, register in tables:
        table = _member(path, module)
        if table is not None:
            table.update(parts)
        else:
            for label, part in parts.items():
                register(label, part)


_call_impl = _find("torch.nn.Module._call_impl")
# The code of a frame in which a module is called.
MODULE_CALL: CodeType | None = getattr(_call_impl, "__code__", None)


def calls_under_way(model: torch.nn.Module, frame: FrameType | None) -> int:
    """How many calls of a module a frame is inside of, in a hook around a call of it.

    Args:
        model: The module.
        frame: The hook's.
    """
    # Without torch's own code to look for, it is the forward's; the hook runs outside of it.
    code = MODULE_CALL or getattr(type(model).forward, "__code__", None)
    count = 0 if MODULE_CALL is not None else 1
    while frame is not None:
        if frame.f_code is code:
            count += first_argument(frame) is model
        frame = frame.f_back
    return count


def compiled_call(module: torch.nn.Module) -> Any:
    """What ``module.compile()`` put in the place of its call; ``None`` if nothing."""
    return _member("torch.nn.Module._compiled_call_impl", module)


def set_compiled_call(module: torch.nn.Module, call: Any) -> None:
    """Puts something in the place of a module's call, or takes it away (``None``)."""
    module.__setattr__(COMPILED_CALL, call)


COMPILED_CALL = "_compiled_call_impl"


def forget_hook(number: int) -> None:
    """Clears what the handle of a global forward hook with keyword arguments leaves behind."""
    _find("torch.nn.modules.module._global_forward_hooks_with_kwargs", {}).pop(number, None)


# --- compilers

ORIGINAL_MODULE = "_orig_mod"
"""The step that ``torch.compile(module)`` puts into qualified names."""


@cache
def _optimized_module() -> type[torch.nn.Module] | None:
    found: type[torch.nn.Module] | None = _find_in("torch._dynamo.OptimizedModule")
    return found


def is_compiled(model: torch.nn.Module) -> bool:
    """Whether it is what ``torch.compile(module)`` returns."""
    kind = _optimized_module()
    if kind is None:
        return type(model).__name__ == "OptimizedModule"
    return isinstance(model, kind)


def original_module(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside of what ``torch.compile(module)`` returned."""
    found = _member("torch._dynamo.OptimizedModule._orig_mod", model)
    return next(model.children()) if found is None else found


def has_compiled() -> bool:
    """Whether torch.compile has compiled anything in this process."""
    utils = sys.modules.get("torch._dynamo.utils")
    counters = {} if utils is None else _member("torch._dynamo.utils.counters", utils, {})
    return bool(counters.get("frames", {}).get("total"))


COMPILATION_CONTEXT = "_set_compilation_env"
"""torch's context around the compilation of a higher-order op."""


def homes_of_compilation_context() -> list[Any]:
    """The modules that have it under this name, the one that defines it first; maybe none."""
    if _find_in("torch._higher_order_ops.utils._set_compilation_env") is None:
        return []
    # Whoever imported it by name has to be told as well: before 2.9 the file of each op has.
    prefix = "torch._higher_order_ops."
    others = [name for name in tuple(sys.modules) if name.startswith(prefix)]
    names = [f"{prefix}utils", *others, "torch.nn.attention.flex_attention"]
    homes = [sys.modules[name] for name in dict.fromkeys(names) if name in sys.modules]
    return [home for home in homes if COMPILATION_CONTEXT in vars(home)]


EVAL_FRAME_SETTER = "_maybe_set_eval_frame"
"""What torch calls where compiled code begins, with what compiles it, and where it ends."""


def home_of_eval_frame_setter() -> Any:
    """The module that has it under this name; ``None`` where torch does otherwise."""
    if _find_in("torch._dynamo.eval_frame._maybe_set_eval_frame") is None:
        return None
    return sys.modules["torch._dynamo.eval_frame"]


# torch's wrapper around compiled code, and what it calls the code and its arguments. Only looked
# for: where torch writes it otherwise, compiled code stands in the graph as one box.
_COMPILED_CODE = "compile_wrapper"
_RETURNED = "result"


def is_around_compiled_code(frame: FrameType) -> bool:
    """Whether a frame that calls `EVAL_FRAME_SETTER` is that of a call of compiled code."""
    return frame.f_code.co_name == _COMPILED_CODE


def compiled_code_of(frame: FrameType, has_run: bool = True) -> Any:
    """What a frame around compiled code calls, with which arguments, and the result if it has run.

    ``None`` where it did not return, or torch does not tell.
    """
    names = frame.f_locals
    wanted = ("fn", "args", "kwargs", _RETURNED)[: 4 if has_run else 3]
    return tuple([names[one] for one in wanted]) if set(wanted) <= set(names) else None


HOOK_QUESTION = "_has_any_global_hook"
"""What compiled modules ask before they warn of global hooks."""


def home_of_hook_question() -> Any:
    """The module that has it under this name; ``None`` where there is no such question."""
    if _find("torch.nn.modules.module._has_any_global_hook") is None:
        return None
    return torch.nn.modules.module


def original_function(function: Any) -> Any:
    """The function that a compiled one was made of; ``None`` of any other."""
    return getattr(function, "_torchdynamo_orig_callable", None)


@cache
def _fake_tensor_mode() -> Any:
    return _find_in("torch._subclasses.FakeTensorMode")


def fake_tensor_mode() -> Any:
    """A mode in which tensors have no data; ``None`` where torch lacks it."""
    kind = _fake_tensor_mode()
    return None if kind is None else kind(allow_non_fake_inputs=True)


@cache
def dispatch_mode_class() -> Any:
    """The class of modes that see the small ops of ops; ``None`` where torch lacks it."""
    return _find_in("torch.utils._python_dispatch.TorchDispatchMode")


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one of such a mode."""
    return type(tensor).__name__ == "FakeTensor" or hasattr(tensor, "fake_mode")


TRAINER_ATTRIBUTE = "_trainer"
"""Where a LightningModule has its trainer, if it has one."""


def import_slow_parts() -> None:
    """Imports what a recording needs of torch and a training process may not have imported."""
    for name in ("torch._dynamo", "torch._higher_order_ops.utils"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    _fake_tensor_mode()
    if not (has_modes() or torch.is_inference_mode_enabled()):
        with contextlib.suppress(Exception):  # it is a tensor of torch's own, kept for good
            _find_in("torch.nested._internal.nested_tensor._nt_view_dummy")()


# --- ops


class _Nothing:
    """The class of nothing, where torch has a class no more."""


OpOverload: Any = _find("torch._ops.OpOverload", type(torch.ops.aten.add.Tensor))
OpOverloadPacket: Any = _find("torch._ops.OpOverloadPacket", type(torch.ops.aten.add))
HigherOrderOperator: Any = _find("torch._ops.HigherOrderOperator", _Nothing)


def schema_of(op: Any) -> Any:
    """The schema of an overload; ``None`` where torch does not tell."""
    return _member("torch._ops.OpOverload._schema", op)


def schema_name(op: Any) -> str:
    """The name of an overload's schema: ``aten::add``."""
    schema = schema_of(op)
    return str(op.name()).partition(".")[0] if schema is None else str(schema.name)


def is_mutable(op: Any) -> bool:
    """Whether an overload may write to its arguments."""
    schema = schema_of(op)
    return schema is None or bool(schema.is_mutable)


def overload_name(op: Any) -> str:
    """``Tensor`` of ``torch.ops.aten.add.Tensor``, ``default`` of one without a name."""
    found = _member("torch._ops.OpOverload._overloadname", op)
    return str(op.name()).partition(".")[2] or "default" if found is None else str(found)


def packet_name(op: Any) -> str:
    """``aten::add`` of ``torch.ops.aten.add``."""
    found = _member("torch._ops.OpOverloadPacket._qualified_op_name", op)
    return str(op).replace(".", "::", 1) if found is None else str(found)


schemas_of: Callable[[str], list[Any]] = _find(
    "torch._C._jit_get_schemas_for_operator", lambda _: []
)
"""The schemas of ``aten::add``."""


def home_of_custom_op(name: str) -> str:
    """The module that defined a custom op (``mylib::add``); ``""`` where it cannot be told."""
    home = sys.modules.get("torch._library.custom_ops")
    known = {} if home is None else _member("torch._library.custom_ops.OPDEFS", home, {})
    if name not in known:
        return ""
    made_by = _member("torch._library.custom_ops.CustomOpDef._init_fn", known[name])
    return str(getattr(made_by, "__module__", ""))


# --- containers and transforms


def _group(names: str, home: str) -> Any:
    """Some names of one module without their underscores; ``None`` if one of them is missing."""
    found = {name.lstrip("_"): _find(f"{home}.{name}", _ABSENT) for name in names.split()}
    return None if _ABSENT in found.values() else SimpleNamespace(**found)


importlib.import_module("torch.utils._pytree")
pytree: Any = _group(PYTREE_NAMES, "torch.utils._pytree")
"""torch's registry of containers; ``None`` where it lacks a part."""

functorch: Any = _group(FUNCTORCH_NAMES, "torch._C._functorch")
"""What torch.func is made of; ``None`` where it lacks a part: ops under transforms are recorded
then, but not how tensors get into the transforms and out of them."""


def open_writer(writer: Any) -> None:
    """Opens a closed SummaryWriter (of torch or tensorboardX) again, as its next scalar would."""
    _member("torch.utils.tensorboard.SummaryWriter._get_file_writer", writer, int)()


def tracking_uri(logger: Any) -> str | None:
    """The server that Lightning's MLflow logger writes to; ``None``: MLflow's own setting."""
    found: str | None = _member("lightning.pytorch.loggers.MLFlowLogger._tracking_uri", logger)
    return found
