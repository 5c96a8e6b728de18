"""``modelviz``: a model's graph from the command line.

The parser is argparse: the commands are few and flat, it comes with Python, and ``modelviz
show`` or ``export`` answer before a larger library would be imported. Only the module of the
command that is named is imported; torch only by ``trace``, ``check`` and ``doctor``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from modelviz_callbacks import __version__
from modelviz_callbacks.cli.any_encoding import written_in_any_encoding
from modelviz_callbacks.cli.verbs import ABOUT
from modelviz_callbacks.errors import ModelvizError
from modelviz_callbacks.libraries import says_what_is_missing

__all__ = ["main"]

_ABOUT = """\
Look at a PyTorch model's graph: record it, open it, write it, compare it.

GraphLogger and GraphHook write a folder `model_graph` in the training run; `modelviz trace`
makes the same folder without training. The other commands work on such a folder.
"""
_EXAMPLES = """\
examples:
  modelviz trace my_models:make_net --input 1x3x224x224
  modelviz show lightning_logs/version_0/model_graph
  modelviz export model_graph/Net --format svg mermaid --depth 2
  modelviz diff run_a/model_graph run_b/model_graph --svg difference.svg
  modelviz check my_models:make_net --input 1x3x224x224 --against graph.json
  modelviz upload model_graph/Net --run 0123456789abcdef0123456789abcdef
  modelviz doctor

`modelviz COMMAND --help` says more about each. The exit status is 0 if all went well, 1 if a
part did not (for diff and check: if there is a difference), 2 if the command could not be done.
"""

FAILED = 2
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Those of the command line, without the program's name; ``None``: sys.argv's.

    Returns:
        The exit status: 0, 1 or 2 as the help says; 130 if interrupted.

    Raises:
        SystemExit: The arguments are wrong (status 2), or help was asked for (status 0).
    """
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser(next(iter(given), "")).parse_args(given)
    try:
        with written_in_any_encoding(), says_what_is_missing():
            status: int = options.run(options)
            sys.stdout.flush()
    except ModelvizError as error:
        print(f"modelviz {options.command}: {error}", file=sys.stderr)
        return FAILED
    except RecursionError:
        print(
            f"modelviz {options.command}: the graph nests too deeply to be shown.", file=sys.stderr
        )
        return FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read has seen enough (`modelviz show DIR | head`); nothing is flushed any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _parser(wanted: str) -> argparse.ArgumentParser:
    """The parser, with the arguments of one command only: those of the others are not asked for."""
    parser = argparse.ArgumentParser(
        prog="modelviz",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"modelviz {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about in ABOUT.items():
        if name == wanted:
            importlib.import_module(f"{__name__}.{name}").add_to(commands)
        else:
            commands.add_parser(name, help=about)
    return parser
