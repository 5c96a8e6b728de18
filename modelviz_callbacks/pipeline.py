"""A stage of ``torch.distributed.pipelining``: whose forward is recorded, by which rank, to where.

Each stage's rank records its own stage; nothing is sent to anybody. Of a pipeline that was split by
`torch.distributed.pipelining.pipeline` the file ``stage_N.json`` says which stage makes what goes
into a stage: a skip connection passes by those between.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from modelviz_callbacks.ranks import IN_WORKER, is_recording_rank


def told_by(
    watched: Any, options: dict[str, Any]
) -> tuple[Any, dict[str, Any], Callable[[], bool]]:
    """What to record for what a hook was given.

    Args:
        watched: A module, or a ``PipelineStage``.
        options: The options of the hook.

    Returns:
        The module, the options, and what tells whether this process records. Of a stage the files
        go to ``stage_N`` below ``dirpath``, and only the first stage's to a run that is found.
    """
    module, number = getattr(watched, "submod", None), getattr(watched, "stage_index", None)
    if isinstance(watched, torch.nn.Module) or not (
        isinstance(module, torch.nn.Module) and isinstance(number, int)
    ):
        return watched, options, is_recording_rank
    folder = options.get("dirpath") or "model_graph"
    if not isinstance(folder, (str, os.PathLike)):
        return module, options, is_recording_rank  # refused in a moment
    here = {**options, "dirpath": f"{os.fspath(folder)}/stage_{number}"}
    if number:
        here = {"mlflow": False, "tracker": False, **here}
    if _is_first_pipeline(watched) and "://" not in os.fspath(folder):
        with contextlib.suppress(Exception):  # then what a stage returns is what the next is given
            _write_sources(watched, number, Path(folder))
    return module, here, lambda: _is_first_pipeline(watched)


def _write_sources(stage: Any, number: int, folder: Path) -> None:
    """Says which stage makes each input of a stage, where the pipeline knows."""
    graph = getattr(getattr(stage, "pipe_info", None), "graph", None)
    if not isinstance(graph, torch.fx.Graph):
        return
    calls = [node for node in graph.nodes if node.op == "call_module"]
    sources: list[tuple[int, int] | None] = []
    for given in calls[number].args:
        if given in calls:
            sources.append((calls.index(given), 0))
        elif given.target is operator.getitem and given.args[0] in calls:
            sources.append((calls.index(given.args[0]), given.args[1]))
        else:
            sources.append(None)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"stage_{number}.json").write_text(json.dumps({"inputs": sources}), encoding="utf-8")


def _is_first_pipeline(stage: Any) -> bool:
    """Whether a stage is one of the pipeline that rank zero is in: there may be copies of it."""
    distributed = torch.distributed
    is_one = not distributed.is_available() or not distributed.is_initialized()
    if IN_WORKER in os.environ or is_one:
        return is_recording_rank()
    group = getattr(stage, "group", None) or distributed.group.WORLD
    return 0 in distributed.get_process_group_ranks(group)
