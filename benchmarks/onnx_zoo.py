"""ONNX over the whole zoo: ``graph.onnx`` and ``model.onnx`` beside ``torch.onnx.export``.

For each model up to three columns. ``view``: ``ok`` (standard ops, and onnxruntime agrees with
the model in eval mode, or with the recorded program in inference form, to 1e-4), else what
`tests.zoo.onnx_files` found. ``trained``: ``ok`` where ``model.onnx`` was made and agrees.
``torch``: ``ok`` where ``torch.onnx.export`` of the model in eval mode gives a file, else the
first line of its error. The last two take an hour each on two cores: ``--columns`` chooses,
``--each`` takes every Nth model, from ``--offset`` on; words choose models by their names.

At the end three figures: how many views are of standard ops alone, how many of these agree, and
how many models whose views are standard (that is, whose ops onnxruntime has) have a ``model.onnx``.

Run it with ``python -m benchmarks.onnx_zoo``.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from modelviz_callbacks import GraphHook
from tests.zoo.cases import Case, seed_everything
from tests.zoo.onnx_files import examined
from tests.zoo.test_zoo import ALL

_LIMIT_S = 120
_NOT_STANDARD = "not standard: "


def _view(case: Case) -> str:
    found = examined(case)
    if found.untranslated:
        return f"{_NOT_STANDARD}{', '.join(found.untranslated)}"
    return found.cause or "ok"


def _trained(case: Case) -> str:
    model, args, kwargs = case.make()
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"formats": ["text"], "tensorboard": False, "onnx": False}
        options |= {"background": False, "trained_onnx": True, "dirpath": folder}
        with GraphHook(model, **options) as hook:
            model(*args, **kwargs)
        if (Path(folder) / "model.onnx").exists():
            return "ok"
        return "; ".join(f"{item.what}: {item.why}" for item in hook.report.refused) or "none"


def _torch(case: Case) -> str:
    model, args, kwargs = case.make()
    seed_everything(1)
    torch.onnx.export(model.eval(), args, kwargs=kwargs, dynamo=True, verbose=False)
    return "ok"


def _tried(column: Callable[[Case], str], case: Case) -> str:
    """What a column says of a case, asked in a process of its own: some exports end theirs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(_LIMIT_S)
        os.write(writing, _answer(column, case).encode()[:1000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return answer or f"ended by signal {os.WTERMSIG(status)}"


def _answer(column: Callable[[Case], str], case: Case) -> str:
    try:
        return column(case)
    except Exception as error:
        cause = error.__cause__ or error
        return f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0][:100]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", nargs="+", default=["view"], choices=_COLUMNS)
    parser.add_argument("--each", type=int, default=1, help="take every Nth model")
    parser.add_argument("--offset", type=int, default=0, help="how many models to pass over first")
    parser.add_argument("words", nargs="*", help="parts of models' names")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    columns = {name: _COLUMNS[name] for name in options.columns}
    answers: dict[str, list[str]] = {name: [] for name in columns}
    seconds = Counter[str]()
    built_once = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    ONNXRegistry.from_torchlib = built_once  # type: ignore[method-assign, assignment]
    for case in ALL[options.offset :: options.each]:
        name = f"{case.family}-{case.name}"
        if options.words and not any(word in name for word in options.words):
            continue
        row = []
        for column, tried in columns.items():
            start = time.perf_counter()
            answer = _tried(tried, case)
            seconds[column] += time.perf_counter() - start
            answers[column].append(answer)
            row.append(answer)
        print(name, *row, sep=" | ", flush=True)
    for column, given in answers.items():
        print(f"{column}: {_share(given.count('ok'), len(given))} in {seconds[column]:.0f} s")
    _print_figures(answers)


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / max(1, whole):.1%})"


def _print_figures(answers: dict[str, list[str]]) -> None:
    views = answers.get("view", [])
    standard = [not answer.startswith(_NOT_STANDARD) for answer in views]
    print(f"standard ops alone: {_share(sum(standard), len(views))}")
    print(f"agreement of these: {_share(views.count('ok'), sum(standard))}")
    pairs = zip(answers.get("trained", []), standard, strict=False)
    trained = [answer for answer, is_standard in pairs if is_standard]
    print(f"model.onnx made for these: {_share(trained.count('ok'), len(trained))}")


_COLUMNS: dict[str, Callable[[Case], str]] = {"view": _view, "trained": _trained, "torch": _torch}


if __name__ == "__main__":
    main()
