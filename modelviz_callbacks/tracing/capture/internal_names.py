"""The list of the private names of torch and of Lightning that the package uses."""

from __future__ import annotations

import os
from typing import NamedTuple


class Internal(NamedTuple):
    """One private name.

    Attributes:
        path: Where it is. The last step alone is private of whatever object has it where the
            path leads to a class; a ``*`` stands for the rest of a name.
        since: The oldest release of torch (of Lightning, of that) known to have it.
        use: What it is for.
        loss: What is missing without it, as a sentence; ``""`` where a public way does the same.
    """

    path: str
    since: str
    use: str
    loss: str = ""


# What is lost.
_WRITES = "Writes in place by functions written in Python and by custom ops are not recorded."
_TIES = (
    "Ops of the backward are not tied to the ops of the forward, and tensors that no recorded op "
    "made are not connected."
)
_GRADIENTS = "There is no graph of the backward: nodes do not tell the gradients they take."
_SAVED = "What autograd keeps for the backward is not shown."
_DUAL = "Forward-mode differentiation (dual numbers) is not marked, and cannot be replayed."
_COMPILED = "What model.compile() compiled is not known as such; its ops may be missing."
_EAGER = "Compiled code ran eagerly for the recorded batch."
_BOXES = "What is inside of compiled code is not shown."
_HIGHER = "What torch.cond, scan or flex_attention computed may be wrong or missing in the graph."
_NAMES = "Arguments of compiled functions and of torch.ops are called arg0, arg1, ... in the graph."
_TEMPORARIES = "The peak of memory does not count what an op needs only while it runs."
_CUSTOM = "Custom ops of a library may be unknown to the process that writes the files."
_TREES = "Tensors in containers that only torch's own registry knows are not inputs and outputs."
_FUNC = (
    "How tensors get into function transforms (vmap, grad, jvp) and out of them is not recorded."
)
_WRITER = "A second fit writes no graph to TensorBoard: the logger's writer cannot be opened again."
_SERVER = "The server of the trainer's MLflow logger is not known: MLflow's own setting is used."

FUNCTORCH_NAMES = """
    CGradInterpreterPtr CVmapInterpreterPtr _add_batch_dim _grad_decrement_nesting
    _grad_increment_nesting _jvp_decrement_nesting _jvp_increment_nesting _remove_batch_dim
    _unwrap_for_grad _vmap_decrement_nesting _vmap_increment_nesting _wrap_for_grad
    get_dynamic_layer_stack_depth get_inplace_requires_grad_allowed get_interpreter_stack
    get_unwrapped is_batchedtensor is_dead_tensor_wrapper is_functorch_wrapped_tensor
    maybe_get_bdim maybe_get_level pop_dynamic_layer_stack
    pop_dynamic_layer_stack_and_undo_to_depth push_dynamic_layer_stack
    set_inplace_requires_grad_allowed
"""
PYTREE_NAMES = """
    SUPPORTED_NODES is_namedtuple_instance tree_flatten tree_flatten_with_path tree_unflatten
"""

INTERNALS: tuple[Internal, ...] = (
    Internal("torch._C._storage_address", "2.8", "which tensors share memory, by one C call"),
    Internal("torch.Tensor._version", "2.0", "whether a call wrote to its arguments", _WRITES),
    Internal(
        "torch.Tensor._nnz",
        "2.0",
        "how many elements a sparse tensor stores",
        "FLOPs of sparse products are counted as at least 0.",
    ),
    Internal("torch._C.DisableTorchFunction", "2.0", "to look at tensors unseen by any mode"),
    Internal(
        "torch._C._VariableFunctions",
        "2.0",
        "torch's own functions, where another library has put others in their place",
    ),
    Internal("torch._C._set_grad_enabled", "2.0", "switches gradients, as torch.export writes it"),
    Internal("torch._C._is_any_autocast_enabled", "2.8", "asked once an op"),
    Internal("torch.amp.autocast_mode._enter_autocast", "2.0", "as torch.export writes it"),
    Internal("torch.amp.autocast_mode._exit_autocast", "2.0", "likewise"),
    Internal("torch._C._autograd._get_sequence_nr", "2.8", "which op made which node", _TIES),
    Internal("torch.autograd.graph.Node._sequence_nr", "2.8", "likewise", _TIES),
    Internal("torch.autograd.graph.Node._input_metadata", "2.8", "gradients' shapes", _GRADIENTS),
    Internal("torch.autograd.graph.Node._raw_saved_*", "2.0", "tensors kept, packed", _SAVED),
    Internal(
        "torch._C._current_graph_task_id",
        "2.0",
        "whether a checkpoint calls modules again",
        "Outputs of checkpointed modules are looked at twice in an inspected step.",
    ),
    Internal("torch.autograd.forward_ad._current_level", "2.0", "whether one is open", _DUAL),
    Internal("torch._VF._make_dual", "2.0", "a witness that dies with a dual level", _DUAL),
    Internal("torch._VF._unpack_dual", "2.0", "whether that witness lives", _DUAL),
    Internal("torch.overrides._get_current_function_mode_stack", "2.0", "whether ours is on it"),
    Internal("torch._C._len_torch_dispatch_stack", "2.0", "whether somebody watches what ops do"),
    Internal("torch.overrides._pop_mode", "2.0", "takes our mode off, wherever it is"),
    Internal("torch.overrides._push_mode", "2.0", "puts our mode on the stack"),
    Internal("torch.nn.Module._modules", "2.0", "the children, without a generator for each"),
    Internal("torch.nn.Module._parameters", "2.0", "the parameters, likewise"),
    Internal("torch.nn.Module._buffers", "2.0", "the buffers, likewise"),
    Internal("torch.nn.Module._call_impl", "2.0", "which frames are calls of a module"),
    Internal("torch.nn.Module._compiled_call_impl", "2.0", "model.compile() sets it", _COMPILED),
    Internal(
        "torch.nn.modules.module._global_forward_hooks_with_kwargs",
        "2.0",
        "a table that the handle of a global hook forgets to clear",
    ),
    Internal("torch._dynamo.OptimizedModule", "2.0", "what torch.compile(module) returns"),
    Internal("torch._dynamo.OptimizedModule._orig_mod", "2.0", "the module that was compiled"),
    Internal(
        "torch._dynamo.utils.counters",
        "2.0",
        "whether to time, where torch does not tell of compiled code",
    ),
    Internal(
        "torch._dynamo.eval_frame._maybe_set_eval_frame",
        "2.8",
        "called where compiled code begins and ends: nothing of ours may be there",
        _EAGER,
    ),
    Internal(
        "torch.nn.modules.module._has_any_global_hook",
        "2.8",
        "asked by compiled modules, which warn of our hooks otherwise",
    ),
    Internal("torch._subclasses.FakeTensorMode", "2.8", "to run code without data", _BOXES),
    Internal(
        "torch.utils._python_dispatch.TorchDispatchMode",
        "2.8",
        "sees the small ops that an op is made of, and what they need of memory",
        _TEMPORARIES,
    ),
    Internal(
        "torch.nested._internal.nested_tensor._nt_view_dummy",
        "2.4",
        "makes, at the first jagged tensor of a process, a tensor that is no part of a model",
    ),
    Internal(
        "torch._higher_order_ops.utils._set_compilation_env",
        "2.8",
        "torch's context around the compilation of a higher-order op, in which no mode may be",
        _HIGHER,
    ),
    Internal("torch._ops.OpOverload", "2.0", "the class of torch.ops.aten.add.Tensor"),
    Internal("torch._ops.OpOverloadPacket", "2.0", "the class of torch.ops.aten.add"),
    Internal("torch._ops.HigherOrderOperator", "2.0", "that of torch.cond's op", _HIGHER),
    Internal("torch._ops.OpOverload._schema", "2.0", "name, arguments and writes", _NAMES),
    Internal("torch._ops.OpOverload._overloadname", "2.0", "an op by name, for another process"),
    Internal("torch._ops.OpOverloadPacket._qualified_op_name", "2.0", "likewise"),
    Internal("torch._C._jit_get_schemas_for_operator", "2.0", "names of arguments", _NAMES),
    Internal("torch._library.custom_ops.OPDEFS", "2.8", "where an op was defined", _CUSTOM),
    Internal("torch._library.custom_ops.CustomOpDef._init_fn", "2.8", "likewise", _CUSTOM),
    *(
        Internal(f"torch.utils._pytree.{name}", "2.8", "opens containers of tensors", _TREES)
        for name in PYTREE_NAMES.split()
    ),
    *(
        Internal(f"torch._C._functorch.{name}", "2.8", "follows function transforms", _FUNC)
        for name in FUNCTORCH_NAMES.split()
    ),
    Internal("torch.utils.tensorboard.SummaryWriter._get_file_writer", "2.0", "opens it", _WRITER),
    Internal(
        "lightning.pytorch.loggers.MLFlowLogger._tracking_uri",
        "2.5",
        "the server that the trainer's MLflow logger writes to",
        _SERVER,
    ),
)

# Modules of torch with the functions that a recorder sees.
FUNCTION_HOMES = frozenset(
    (
        "torch",
        "torch._C._fft",
        "torch._C._linalg",
        "torch._C._nested",
        "torch._C._nn",
        "torch._C._sparse",
        "torch._C._special",
        "torch._lobpcg",
        "torch._lowrank",
        "torch._tensor",
        "torch.autograd",
        "torch.autograd.forward_ad",
        "torch.functional",
        "torch.nn.functional",
        "torch.nn.init",
    )
)

# What is made in these, but stands in one of the above.
FUNCTION_MAKERS = FUNCTION_HOMES | {"torch._jit_internal"}

# FSDP's hooks run between the modules' calls and move parameters about. Only compared with the
# names of files: where torch has them elsewhere, they stand in the graph as ops.
SHARDING_FILES = (
    f"{os.sep}distributed{os.sep}fsdp{os.sep}_fully_shard{os.sep}",
    f"{os.sep}distributed{os.sep}fsdp{os.sep}_runtime_utils.py",
    f"{os.sep}distributed{os.sep}fsdp{os.sep}_flat_param.py",
    f"{os.sep}distributed{os.sep}fsdp{os.sep}_unshard_param_utils.py",
)
