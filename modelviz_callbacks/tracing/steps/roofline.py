"""How near each op came to what its machine can do: a roofline.

What a CPU can do is measured here, in the job, never in a training step: the FLOPs of a product of
matrices in the op's dtype, and the bytes that a copy moves, once of what fits into the caches and
once of what does not. An op cannot be faster than its FLOPs, or its bytes, allow; which of the two
takes longer limits it. What an op was measured to reach counts as possible, too, so that nothing is
said to be above the peak. On a GPU nothing is measured: the training has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import NamedTuple

import torch

from modelviz_callbacks.analysis.measured import Limit, MeasuredCosts
from modelviz_callbacks.graph import ModelGraph, Node
from modelviz_callbacks.graph.op_facts import OpFact, facts_of

# An op that takes less is mostly what torch does around it.
_OVERHEAD_US = 30.0
_LEAST_SHARE = 0.1
# How long each thing is measured, in seconds; the best of the runs in it counts.
_MEASURED_S = 0.06
_MOST_RUNS = 20
_MATRIX = 512
# What lies in the caches of most machines, and what does not.
_CACHED_BYTES, _LARGE_BYTES = 2**19, 2**26
_CACHE_BYTES = 2**22


class _Work(NamedTuple):
    """What an op does: its dtype, FLOPs, bytes, and how long it took."""

    dtype: str
    flops: int
    size_bytes: int
    seconds: float


def limits_of(graph: ModelGraph, measured: MeasuredCosts, threads: int) -> dict[str, Limit]:
    """What limits each timed op that ran on the CPU.

    Args:
        graph: Has FLOPs and shapes.
        measured: Has the times.
        threads: How many threads torch computed with.

    Returns:
        By the ops' names; ops that move nothing (views) have none.
    """
    work = dict(_work(graph, measured.forward_us))
    if not work:
        return {}
    before = torch.get_num_threads()
    try:
        if threads != before:
            torch.set_num_threads(threads)
        peaks = _Peaks(list(work.values()))
    finally:
        if threads != before:
            torch.set_num_threads(before)
    return {name: peaks.limit(one) for name, one in work.items()}


def _work(graph: ModelGraph, times_us: Mapping[str, float]) -> Iterator[tuple[str, _Work]]:
    for name, time_us in times_us.items():
        node = graph.by_name[name]
        on_cpu = all(spec.device == "cpu" for spec in node.outputs)
        if not node.outputs or not on_cpu or OpFact.LAYOUT in facts_of(node.target):
            continue
        dtype = node.outputs[0].dtype
        yield name, _Work(dtype, node.flops or 0, _moved(graph, node), max(time_us, 1e-3) / 1e6)


def _moved(graph: ModelGraph, node: Node) -> int:
    """Bytes that it reads and writes, each tensor once."""
    read = {ref: graph.spec(ref).size_bytes for ref in node.inputs}
    return sum(read.values()) + sum(spec.size_bytes for spec in node.outputs)


class _Peaks:
    """What the machine can do in a second."""

    def __init__(self, work: list[_Work]) -> None:
        dtypes = sorted({one.dtype for one in work if one.flops})
        self._flops = {dtype: _flops_a_second(dtype) for dtype in dtypes}
        large = _bytes_a_second(_LARGE_BYTES)
        # Short runs on a busy machine look slow; but a cache is never slower than what is behind.
        self._bytes = {False: large, True: max(large, _bytes_a_second(_CACHED_BYTES))}
        for one in work:
            if one.flops:
                reached = one.flops / one.seconds
                self._flops[one.dtype] = max(self._flops[one.dtype], reached)
            fits = one.size_bytes <= _CACHE_BYTES
            if not one.flops:
                self._bytes[fits] = max(self._bytes[fits], one.size_bytes / one.seconds)

    def limit(self, one: _Work) -> Limit:
        """What limits an op, and how near it came to that."""
        computing_s = one.flops / self._flops[one.dtype] if one.flops else 0.0
        moving_s = one.size_bytes / self._bytes[one.size_bytes <= _CACHE_BYTES]
        share = min(1.0, max(computing_s, moving_s) / one.seconds)
        if one.seconds * 1e6 < _OVERHEAD_US and share < _LEAST_SHARE:
            return Limit("overhead", share)
        return Limit("compute" if computing_s > moving_s else "memory", share)


def _flops_a_second(dtype: str) -> float:
    kind = getattr(torch, dtype, torch.float32)
    try:
        one = torch.ones(_MATRIX, _MATRIX, dtype=kind, device="cpu")
        best_s = _best_s(lambda: one @ one)
    except RuntimeError:  # a dtype whose matrices are not multiplied here
        return 1.0
    return 2 * _MATRIX**3 / best_s


def _bytes_a_second(size: int) -> float:
    # Device and dtype are told: the user may have changed torch's defaults.
    source = torch.ones(size // 4, dtype=torch.float32, device="cpu")
    target = torch.empty_like(source)
    # It reads as much as it writes.
    return 2 * size / _best_s(lambda: target.copy_(source))


def _best_s(run: Callable[[], object]) -> float:
    """The fastest of some runs, in seconds."""
    run()
    began, best = perf_counter(), float("inf")
    for _ in range(_MOST_RUNS):
        start = perf_counter()
        run()
        best = min(best, perf_counter() - start)
        if perf_counter() - began > _MEASURED_S:
            break
    return max(best, 1e-9)
