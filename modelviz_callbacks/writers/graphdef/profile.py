"""Numbers for TensorBoard's colourings "compute time" and "memory".

The dashboard reads them from ``RunMetadata.step_stats`` (found in TensorBoard 2.21's source):
``all_start_micros`` must be at least 1 and ``all_end_rel_micros`` above 0, the device must look
like ``device:CPU:0``, every output needs its shape. A box shows the sum of its ops' bytes, but
the span from its first start to its last end; so the ops are laid end to end in the order in
which the boxes nest, and spans are sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.graph import ModelGraph, Node, TensorSpec
from modelviz_callbacks.tensorboard_messages import DeviceStepStats, RunMetadata
from modelviz_callbacks.writers.graphdef.layout import EMBEDDED_KINDS
from modelviz_callbacks.writers.graphdef.nodedefs import device_name, shape_proto


@dataclass(frozen=True)
class Load:
    """What one drawn node costs.

    Attributes:
        name: Its name in TensorBoard.
        device: A torch device, ``cuda:0``.
        amount: Its share of the "compute time" scale, in the scale's microseconds.
        size_bytes: Its share of the "memory" scale.
        outputs: The tensors it makes.
    """

    name: str
    device: str
    amount: float
    size_bytes: int
    outputs: tuple[TensorSpec, ...] = ()


def step_stats(loads: Iterable[Load]) -> RunMetadata:
    """The loads, end to end in the order given.

    Whole microseconds are all the format has. What rounding takes from one op is given to the
    next, so sums stay right; an op counts at least 1, or it would lose its colour and label.
    """
    metadata = RunMetadata()
    devices: dict[str, DeviceStepStats] = {}
    start, carried = 1, 0.0
    for load in loads:
        stats = devices.get(load.device)
        if stats is None:
            stats = metadata.step_stats.dev_stats.add(device=device_name(load.device))
            devices[load.device] = stats
        due = load.amount + carried
        length, carried = max(1, round(due)), due - round(due)
        row = stats.node_stats.add(
            node_name=load.name, all_start_micros=start, all_end_rel_micros=length
        )
        start += length
        row.memory.add(allocator_name="bytes", total_bytes=load.size_bytes)
        for slot, spec in enumerate(load.outputs):
            output = row.output.add(slot=slot)
            output.tensor_description.shape.CopyFrom(shape_proto(spec.shape or ()))
    return metadata


_UNITS = (("FLOP", 1), ("kFLOP", 10**3), ("MFLOP", 10**6), ("GFLOP", 10**9), ("TFLOP", 10**12))


def flops_a_microsecond(graph: ModelGraph) -> int:
    """How many FLOPs one microsecond of the scale stands for: a power of 1000.

    Chosen so that the whole graph stays below a minute, where the dashboard's units stop being
    decimal.
    """
    total = sum(node.flops or 0 for node in graph.nodes)
    for _, unit in _UNITS[:-1]:
        if total < 60 * unit * 10**6:
            return unit
    return _UNITS[-1][1]


def scale_text(graph: ModelGraph) -> str:
    """How to read the scale of `cost_loads`: ``1 s = 1 GFLOP``."""
    a_second = flops_a_microsecond(graph) * 10**6
    names = {value: name for name, value in (*_UNITS, ("PFLOP", 10**15), ("EFLOP", 10**18))}
    return f"1 s = 1 {names[a_second]}"


def cost_loads(
    graph: ModelGraph, names: Mapping[str, str], devices: Mapping[str, str]
) -> list[Load]:
    """FLOPs as amounts, bytes of parameters as memory.

    Circles have no place on the scales, so a parameter counts at the first op that reads it.

    Args:
        graph: The graph.
        names: Each node's name in TensorBoard, in nesting order.
        devices: Each node's torch device.
    """
    unit = flops_a_microsecond(graph)
    owned = parameter_bytes(graph)
    return [
        Load(
            placed,
            devices[name],
            (graph.by_name[name].flops or 0) / unit,
            owned.get(name, 0),
            graph.by_name[name].outputs,
        )
        for name, placed in names.items()
        if graph.by_name[name].kind not in EMBEDDED_KINDS
    ]


def memory_loads(
    graph: ModelGraph, names: Mapping[str, str], devices: Mapping[str, str]
) -> list[Load]:
    """FLOPs as amounts, bytes kept for the backward as memory.

    Args:
        graph: The graph.
        names: Each node's name in TensorBoard, in nesting order.
        devices: Each node's torch device.
    """
    nodes = graph.by_name
    return [
        replace(load, size_bytes=nodes[name].kept_bytes or 0)
        for name, load in zip(
            (name for name in names if nodes[name].kind not in EMBEDDED_KINDS),
            cost_loads(graph, names, devices),
            strict=True,
        )
    ]


# What a whole is where parts of it stand in the place of times: well below a minute, where the
# dashboard's units stop being decimal, and large enough that a millionth has a colour.
WHOLE_US = 10 * 10**6


def parameter_bytes(graph: ModelGraph) -> dict[str, int]:
    """Bytes of the parameters that each node is the first to read."""
    found: dict[str, int] = {}
    unread = {node.name: node.outputs[0].size_bytes for node in graph.of_kind("parameter")}
    for node in graph.nodes:
        for ref in node.inputs:
            if ref.node in unread:
                found[node.name] = found.get(node.name, 0) + unread.pop(ref.node)
    return found


def time_loads(
    graph: ModelGraph,
    names: Mapping[str, str],
    devices: Mapping[str, str],
    times_us: Mapping[str, float],
) -> list[Load]:
    """Measured times as amounts, bytes of outputs as memory.

    Args:
        graph: The graph.
        names: Each node's name in TensorBoard, in nesting order.
        devices: Each node's torch device.
        times_us: Microseconds by node name; nodes that are missing took none.

    Raises:
        WriterError: A time belongs to no op of the graph, is negative or not finite.
    """
    for name, time_us in times_us.items():
        node = graph.by_name.get(name)
        if node is None or not node.is_call:
            raise WriterError(
                f"There is a time for {name!r}, which is no op of the graph {graph.name!r}. "
                "Give times by the names of the graph's ops."
            )
        if not (math.isfinite(time_us) and time_us >= 0):
            raise WriterError(
                f"The time of {name!r} is {time_us!r} microseconds; expected a number from 0."
            )
    return [
        Load(placed, devices[name], times_us.get(name, 0.0), _made_bytes(node), node.outputs)
        for name, placed in names.items()
        if (node := graph.by_name[name]).kind not in EMBEDDED_KINDS
    ]


def _made_bytes(node: Node) -> int:
    """Bytes of the outputs that are not written into memory there already was."""
    return sum(
        spec.size_bytes for index, spec in enumerate(node.outputs) if index not in node.writes
    )
