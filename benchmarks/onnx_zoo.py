"""ONNX over the whole zoo: ``graph.onnx`` beside ``torch.onnx.export`` on the same models.

For each model two columns. Ours: ``ok`` (standard ops, and onnxruntime agrees with the model in
eval mode, or with the recorded program in inference form, to 1e-4), else what
`tests.zoo.onnx_files` found. torch's: ``ok`` where ``torch.onnx.export`` of the model in eval
mode gives a file, else the first line of its error. The second column takes an hour on two cores;
``--ours`` or ``--torch`` leaves the other one out, words choose models by their names.

Run it with ``python -m benchmarks.onnx_zoo``.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from tests.zoo.cases import Case, seed_everything
from tests.zoo.onnx_files import examined
from tests.zoo.test_zoo import ALL

_LIMIT_S = 120


def _ours(case: Case) -> str:
    found = examined(case)
    return "ok" if found.agrees else found.cause


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
    parser.add_argument("--ours", action="store_true", help="leave torch.onnx.export out")
    parser.add_argument("--torch", action="store_true", help="leave our column out")
    parser.add_argument("--each", type=int, default=1, help="take every Nth model")
    parser.add_argument("words", nargs="*", help="parts of models' names")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    columns = {"ours": _ours, "torch": _torch}
    if options.ours != options.torch:
        del columns["torch" if options.ours else "ours"]
    counts = {name: Counter[str]() for name in columns}
    seconds = Counter[str]()
    built_once = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    ONNXRegistry.from_torchlib = built_once  # type: ignore[method-assign, assignment]
    for case in ALL[:: options.each]:
        name = f"{case.family}-{case.name}"
        if options.words and not any(word in name for word in options.words):
            continue
        row = []
        for column, tried in columns.items():
            start = time.perf_counter()
            answer = _tried(tried, case)
            seconds[column] += time.perf_counter() - start
            counts[column]["ok" if answer == "ok" else "not"] += 1
            row.append(answer)
        print(name, *row, sep=" | ", flush=True)
    for column, count in counts.items():
        total = sum(count.values())
        print(
            f"{column}: {count['ok']} of {total} models ({count['ok'] / total:.1%}) "
            f"in {seconds[column]:.0f} s"
        )


if __name__ == "__main__":
    main()
