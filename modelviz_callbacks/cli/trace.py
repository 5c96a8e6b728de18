"""``modelviz trace``: the graph of a model, without training it."""

from __future__ import annotations

import argparse
import sys
import traceback
from typing import TYPE_CHECKING

from modelviz_callbacks.cli.commands import Commands, declare, positive
from modelviz_callbacks.options import FORMATS

if TYPE_CHECKING:
    from modelviz_callbacks.cli.models import Subject
    from modelviz_callbacks.tracing import Recording

_MORE = """\
MODULE:FACTORY is a function that returns a model, a model class, or a model; MODULE is a module
that can be imported from here, or the path of a Python file. FACTORY may also return the model
together with its inputs: (model, args) or (model, args, kwargs).

  modelviz trace my_models:make_net --input 1x3x224x224
  modelviz trace net.py:Net --factory-kwarg width=64 --input 8x20 --eval
  modelviz trace my_models:bert --input 2x16:int64:30000 --kwarg attention_mask=2x16:int64
  modelviz trace my_models:make_net_and_batch

An input is SHAPE[:DTYPE[:BELOW]]: sizes with x between them (or `scalar`), a dtype of torch if it
is not float32, and for integers the number they stay below (2 if none is said).

One forward runs, with random inputs. The files go to model_graph/NAME, or --out. If the forward
raises, the graph up to there is written and the exit status is 1; it is 1, too, if a file could
not be made, and 2 if there is no model.
"""


def add_to(commands: Commands) -> None:
    """Adds the command."""
    about = "record one forward of a model, without training"
    parser = declare(commands, "trace", run, about, _MORE)
    add = parser.add_argument
    add("model", metavar="MODULE:FACTORY", help="where the model comes from")
    add("--input", action="append", default=[], dest="inputs", metavar="SHAPE", help="an input")
    add(
        "--kwarg",
        action="append",
        default=[],
        dest="kwargs",
        metavar="NAME=VALUE",
        help="an input by name: a shape as above with a dtype or an x, or a Python literal",
    )
    add(
        "--factory-kwarg",
        action="append",
        default=[],
        dest="factory_kwargs",
        metavar="NAME=VALUE",
        help="an argument for FACTORY, likewise",
    )
    add("--out", metavar="DIR", help="folder for the files (default: model_graph/NAME)")
    add("--name", help="what to call the graph (default: the model's class)")
    add(
        "--formats",
        nargs="*",
        choices=FORMATS,
        default=FORMATS,
        metavar="FORMAT",
        help=f"some of {', '.join(FORMATS)} (default: all); graph.json is always written",
    )
    add("--depth", type=positive, metavar="N", help="how many levels of modules pictures open")
    add(
        "--onnx",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write graph.onnx for Netron",
    )
    add(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write an event file for TensorBoard",
    )
    _add_mode(parser)


def _add_mode(parser: argparse.ArgumentParser) -> None:
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--train", action="store_true", help="put the model into training mode")
    mode.add_argument(
        "--eval", action="store_true", help="put it into evaluation mode (default: as it comes)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the random numbers (default: 0)"
    )


def run(options: argparse.Namespace) -> int:
    """Records and writes; see `add_to` for the options."""
    import torch

    from modelviz_callbacks.cli.models import load
    from modelviz_callbacks.options import make_options
    from modelviz_callbacks.run import Run

    torch.manual_seed(options.seed)
    subject = load(options.model, _named(options.factory_kwargs, "--factory-kwarg"))
    if options.train or options.eval:
        subject.model.train(options.train)
    chosen = make_options(
        dirpath=options.out,
        name=options.name,
        tensorboard=options.tensorboard,
        mlflow=False,
        onnx=options.onnx,
        formats=options.formats,
        depth=options.depth,
        background=False,
    )
    recording, error = _recorded(subject, options)
    recorded = Run(chosen, type(subject.model).__name__)
    recorded.captured(recording)
    recorded.finish("The forward did not run.")
    if error is not None:
        # The first line is the call in this file.
        print("".join(traceback.format_exception(error)).rstrip(), file=sys.stderr)
        print(
            f"modelviz trace: the forward of {options.model} raised {type(error).__name__}; the "
            f"graph of what ran until then is in {recorded.report.folder}",
            file=sys.stderr,
        )
    return 1 if error is not None or recorded.report.refused else 0


def _named(texts: list[str], option: str) -> dict[str, object]:
    from modelviz_callbacks.cli.inputs import named

    return dict(named(text, option) for text in texts)


def _recorded(subject: Subject, options: argparse.Namespace) -> tuple[Recording, Exception | None]:
    """One forward's recording, and what it raised."""
    from modelviz_callbacks.cli.inputs import tensor
    from modelviz_callbacks.tracing import Capture

    args = tuple(map(tensor, options.inputs)) or subject.args
    kwargs = subject.kwargs | _named(options.kwargs, "--kwarg")
    capture = Capture(subject.model)
    capture.start(args, kwargs)
    try:
        result = subject.model(*args, **kwargs)
    except Exception as error:
        return capture.abandon(error), error
    finally:
        capture.stop()
    return capture.finish(result), None
