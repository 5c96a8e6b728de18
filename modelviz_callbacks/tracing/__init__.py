"""The tracing core: records one real forward and lowers it to a graph and a program."""

from modelviz_callbacks.tracing.capture.autograd_record import record_backward
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.session import Capture
from modelviz_callbacks.tracing.capture.step_timer import StepTimer
from modelviz_callbacks.tracing.capture.warm_up import warm_up
from modelviz_callbacks.tracing.capture.wrappers import class_of, is_compiled, unwrapped
from modelviz_callbacks.tracing.lowering.flops import with_flops
from modelviz_callbacks.tracing.lowering.replay import run
from modelviz_callbacks.tracing.lowering.step_times import TimedStep
from modelviz_callbacks.tracing.lowering.to_backward_graph import to_backward_graph
from modelviz_callbacks.tracing.lowering.to_graph import to_graph
from modelviz_callbacks.tracing.lowering.to_program import Program, to_program
from modelviz_callbacks.tracing.transport.pack import pack, unpack
from modelviz_callbacks.tracing.transport.timed_steps import pack_timed, unpack_timed

__all__ = [
    "Capture",
    "Program",
    "Recording",
    "StepTimer",
    "TimedStep",
    "class_of",
    "is_compiled",
    "pack",
    "pack_timed",
    "record_backward",
    "run",
    "to_backward_graph",
    "to_graph",
    "to_program",
    "unpack",
    "unpack_timed",
    "unwrapped",
    "warm_up",
    "with_flops",
]
