"""``modelviz trace``: the graph of a model, without training it."""

from __future__ import annotations

import argparse
import sys
import traceback

from modelviz_callbacks.cli.commands import ABOUT_MODELS, Commands, add_model, declare, positive
from modelviz_callbacks.options import FORMATS

_MORE = f"""\
{ABOUT_MODELS}
  modelviz trace my_models:make_net --input 1x3x224x224
  modelviz trace net.py:Net --factory-kwarg width=64 --input 8x20 --eval
  modelviz trace my_models:bert --input 2x16:int64:30000 --kwarg attention_mask=2x16:int64
  modelviz trace my_models:make_net_and_batch

One forward runs, with random inputs. The files go to model_graph/NAME, or NAME_2 and so on where
a graph is there already; --out names the folder itself, in which an earlier graph is replaced. If
the forward raises, the graph up to there is written and the exit status is 1; it is 1, too, if a
file could not be made, and 2 if there is no model.
"""


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = declare(commands, "trace", run, _MORE)
    add_model(parser)
    add = parser.add_argument
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


def run(options: argparse.Namespace) -> int:
    """Records and writes; see `add_to` for the options."""
    from modelviz_callbacks.cli.one_forward import model_of, record
    from modelviz_callbacks.options import make_options
    from modelviz_callbacks.report import from_here
    from modelviz_callbacks.run import Run

    subject = model_of(options)
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
    recording, error = record(subject, options)
    recorded = Run(chosen, type(subject.model).__name__)
    recorded.captured(recording)
    recorded.finish("The forward did not run.")
    if error is not None:
        # The first line is the call in this file.
        print("".join(traceback.format_exception(error)).rstrip(), file=sys.stderr)
        print(
            f"modelviz trace: the forward of {options.model} raised {type(error).__name__}; the "
            f"graph of what ran until then is in {from_here(recorded.report.folder)}",
            file=sys.stderr,
        )
    return 1 if error is not None or recorded.report.refused else 0
