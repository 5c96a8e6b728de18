"""The tracing core: records one real forward and lowers it to a graph and a program."""

from modelviz_callbacks.tracing.capture import Capture
from modelviz_callbacks.tracing.costs import with_flops
from modelviz_callbacks.tracing.recording import Recording
from modelviz_callbacks.tracing.replay import run
from modelviz_callbacks.tracing.to_graph import to_graph
from modelviz_callbacks.tracing.to_program import Program, to_program
from modelviz_callbacks.tracing.warming import warm_up
from modelviz_callbacks.tracing.wrappers import class_of, is_compiled, unwrapped

__all__ = [
    "Capture",
    "Program",
    "Recording",
    "class_of",
    "is_compiled",
    "run",
    "to_graph",
    "to_program",
    "unwrapped",
    "warm_up",
    "with_flops",
]
