"""The tracing core: records one real forward and lowers it to a graph and a program."""

from modelviz_callbacks.tracing.capture.autograd_record import record_backward
from modelviz_callbacks.tracing.capture.compile_guard import compiled_parts, is_for_a_compiler
from modelviz_callbacks.tracing.capture.lazy_result import LazyResult, used_up
from modelviz_callbacks.tracing.capture.lazy_values import is_lazy
from modelviz_callbacks.tracing.capture.module_paths import modules_of
from modelviz_callbacks.tracing.capture.random_state import RandomState, random_devices
from modelviz_callbacks.tracing.capture.recording import Recording, forward_signature
from modelviz_callbacks.tracing.capture.session import Capture
from modelviz_callbacks.tracing.capture.step_hook import StepHook
from modelviz_callbacks.tracing.capture.torch_internals import (
    calls_under_way,
    compiled_call,
    has_modes,
    is_compiled,
    no_torch_function,
    open_writer,
    set_compiled_call,
    tracking_uri,
)
from modelviz_callbacks.tracing.capture.warm_up import warm_up
from modelviz_callbacks.tracing.capture.watchable import (
    runs_compiled,
    watchable_parts,
    without_wrappers,
)
from modelviz_callbacks.tracing.capture.watched_method import (
    Around,
    method_names,
    method_under_way,
    modules_under_way,
    watch_method,
)
from modelviz_callbacks.tracing.capture.wrappers import class_of, told_modules, unwrapped
from modelviz_callbacks.tracing.lowering.flops import with_flops
from modelviz_callbacks.tracing.lowering.memory import with_memory
from modelviz_callbacks.tracing.lowering.other_arguments import difference_of_arguments
from modelviz_callbacks.tracing.lowering.replay import run
from modelviz_callbacks.tracing.lowering.source_files import SourceFile, source_files
from modelviz_callbacks.tracing.lowering.to_backward_graph import to_backward_graph
from modelviz_callbacks.tracing.lowering.to_graph import to_graph
from modelviz_callbacks.tracing.lowering.to_program import Program, to_program
from modelviz_callbacks.tracing.lowering.values_read import ValuesBefore, ValuesRead
from modelviz_callbacks.tracing.nonfinite.backward_search import BackwardSearch
from modelviz_callbacks.tracing.nonfinite.finiteness import is_finite
from modelviz_callbacks.tracing.nonfinite.forward_search import NonfiniteSearch, losses_among
from modelviz_callbacks.tracing.nonfinite.found import Nonfinite, TensorRange
from modelviz_callbacks.tracing.nonfinite.gradient_step import examine_gradients
from modelviz_callbacks.tracing.nonfinite.loss_flag import LossFlag
from modelviz_callbacks.tracing.nonfinite.step import (
    StepCall,
    copies_of,
    examine,
    first_call,
    written_state,
)
from modelviz_callbacks.tracing.steps.inspected_step import InspectedStep, TensorHealth
from modelviz_callbacks.tracing.steps.measured import Measured
from modelviz_callbacks.tracing.steps.optimizer_memory import OptimizerMemory
from modelviz_callbacks.tracing.steps.step_inspector import StepInspector
from modelviz_callbacks.tracing.steps.step_timer import StepTimer
from modelviz_callbacks.tracing.steps.step_times import op_times
from modelviz_callbacks.tracing.transport.comparable import pack_comparable
from modelviz_callbacks.tracing.transport.measurements import pack_measured, unpack_measured
from modelviz_callbacks.tracing.transport.pack import pack
from modelviz_callbacks.tracing.transport.unpack import unpack

__all__ = [
    "Around",
    "BackwardSearch",
    "Capture",
    "InspectedStep",
    "LazyResult",
    "LossFlag",
    "Measured",
    "Nonfinite",
    "NonfiniteSearch",
    "OptimizerMemory",
    "Program",
    "RandomState",
    "Recording",
    "SourceFile",
    "StepCall",
    "StepHook",
    "StepInspector",
    "StepTimer",
    "TensorHealth",
    "TensorRange",
    "ValuesBefore",
    "ValuesRead",
    "calls_under_way",
    "class_of",
    "compiled_call",
    "compiled_parts",
    "copies_of",
    "difference_of_arguments",
    "examine",
    "examine_gradients",
    "first_call",
    "forward_signature",
    "has_modes",
    "is_compiled",
    "is_finite",
    "is_for_a_compiler",
    "is_lazy",
    "losses_among",
    "method_names",
    "method_under_way",
    "modules_of",
    "modules_under_way",
    "no_torch_function",
    "op_times",
    "open_writer",
    "pack",
    "pack_comparable",
    "pack_measured",
    "random_devices",
    "record_backward",
    "run",
    "runs_compiled",
    "set_compiled_call",
    "source_files",
    "to_backward_graph",
    "to_graph",
    "to_program",
    "told_modules",
    "tracking_uri",
    "unpack",
    "unpack_measured",
    "unwrapped",
    "used_up",
    "warm_up",
    "watch_method",
    "watchable_parts",
    "with_flops",
    "with_memory",
    "without_wrappers",
    "written_state",
]
