"""``modelviz check``: whether a model is still what it is meant to be."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from modelviz_callbacks.cli.commands import (
    ABOUT_MODELS,
    Commands,
    add_model,
    add_tracking_uri,
    declare,
    read_graph,
)
from modelviz_callbacks.errors import CaptureError, OptionError

_MORE = f"""\
For continuous integration: the exit status is 1 where the architecture is no longer that of the
graph given by --against, with the differences, or where a limit is exceeded; 0 if all is well;
2 if the model cannot be made or its forward raises.

{ABOUT_MODELS}
  modelviz check my_models:make_net --input 1x3x224x224 --against graph.json
  modelviz check my_models:make_net --input 1x3x224x224 --against graph.json --update
  modelviz check net.py:Net --input 8x20 --max-parameters 25M --max-flops 4.1G

What counts as a difference is what `modelviz diff` says.
"""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)([KMGBT]?)", re.IGNORECASE)


def amount(text: str) -> int:
    """A number with a unit of thousands: ``25M``, ``4.1G``, ``1e9``, ``1000000``."""
    found = _AMOUNT.fullmatch(text.replace("_", "").replace(",", ""))
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, as 25M, 4.1G or 1e9 are")
    return round(float(found[1]) * _UNITS[found[2].upper()])


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = declare(commands, "check", run, _MORE)
    add_model(parser)
    add = parser.add_argument
    add("--against", metavar="GRAPH", help="a graph.json, a folder with one, or an MLflow run")
    add("--update", action="store_true", help="write the model's graph to the file instead")
    add("--strict", action="store_true", help="as in modelviz diff")
    add("--max-parameters", type=amount, metavar="N", help="most parameters")
    add("--max-flops", type=amount, metavar="N", help="most FLOPs of one forward")
    add_tracking_uri(parser)


def run(options: argparse.Namespace) -> int:
    """Records one forward and compares; see `add_to` for the options."""
    if options.against is None and options.max_parameters is None and options.max_flops is None:
        raise OptionError(
            "There is nothing to check: give --against, --max-parameters or --max-flops."
        )
    if options.update and options.against is None:
        raise OptionError("--update writes the file of --against: give one.")
    from modelviz_callbacks.architecture import Limits, differences, over_limits
    from modelviz_callbacks.artifacts.products import graph_of
    from modelviz_callbacks.cli.one_forward import model_of, record

    reference = None
    if options.against is not None and not options.update:
        reference = read_graph(options.against, options.tracking_uri)
    recording, error = record(model_of(options), options)
    if error is not None:
        raise CaptureError(
            f"The forward of {options.model} raised {type(error).__name__}: {error}"
        ) from error
    graph = graph_of(recording)
    failures = over_limits(graph, Limits(options.max_parameters, options.max_flops))
    if options.update:
        Path(options.against).parent.mkdir(parents=True, exist_ok=True)
        graph.save(options.against)
        print(f"{options.against} is the graph of {options.model} now.")
    elif reference is not None:
        found = differences(reference, graph, strict=options.strict)
        failures += [found] if found else []
    print("\n\n".join(failures) or f"{options.model} is as it is meant to be: {graph!r}")
    return 1 if failures else 0
