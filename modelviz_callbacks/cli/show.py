"""``modelviz show``: a graph's files in the viewers they are made for."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
import webbrowser
from pathlib import Path

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.cli.commands import (
    GRAPH_FILE,
    Commands,
    declare,
    folder_of,
    positive,
    read_graph,
)
from modelviz_callbacks.cli.foreign_files import is_foreign, read_foreign
from modelviz_callbacks.cli.terminal import print_tree, width
from modelviz_callbacks.errors import ModelvizError, OptionError
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.libraries import says_what_is_missing
from modelviz_callbacks.writers.text import full_text

_MORE = """\
Prints the module tree and opens the interactive page (index.html) in the browser. A page of
files, or of several folders, is written into a temporary folder.

  modelviz show model_graph/Net                the page
  modelviz show run1 run2 run3/graph.json      one page of several graphs, with a switch
  modelviz show model.onnx exported.pt2        graphs of others in the same page
  modelviz show model_graph/Net --netron       graph.onnx in Netron
  modelviz show model_graph/Net --tensorboard  the run in TensorBoard
  modelviz show model_graph/Net --text         only the module tree, here

Netron and TensorBoard keep running until Ctrl-C.
"""
_EVENTS = "events.out.tfevents.*"


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = declare(commands, "show", run, _MORE)
    parser.add_argument(
        "sources",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="the folder with the files; or several, a graph.json, an ONNX file, a .pt2 file",
    )
    viewer = parser.add_mutually_exclusive_group()
    viewer.add_argument("--netron", action="store_true", help="open the ONNX file in Netron")
    viewer.add_argument(
        "--tensorboard", action="store_true", help="start TensorBoard on the folder's run"
    )
    viewer.add_argument("--text", action="store_true", help="only print the module tree")
    parser.add_argument(
        "--port", type=positive, metavar="N", help="for the viewer (default: a usual one)"
    )
    parser.add_argument(
        "--no-browser",
        action="store_false",
        dest="browser",
        help="say where it is, open no browser (for a machine without one)",
    )
    parser.add_argument(
        "--depth", type=positive, metavar="N", help="how many levels the printed tree has"
    )


def run(options: argparse.Namespace) -> int:
    """Opens the viewer; see `add_to` for the options."""
    sources: list[Path] = options.sources
    if len(sources) > 1 or sources[0].is_file():
        if options.netron or options.tensorboard:
            raise OptionError("Netron and TensorBoard show one folder: give one.")
        return _several(sources, options)
    folder = folder_of(sources[0])
    if options.netron:
        return _netron(_onnx_in(folder), options.port, options.browser)
    if options.tensorboard:
        return _tensorboard(_run_of(folder), options.port, options.browser)
    has_graph = (folder / GRAPH_FILE).is_file()
    if has_graph:
        graph = read_graph(str(folder))
        print_tree(full_text(Analysis(graph), depth=options.depth, width=width()))
    if options.text:
        if not has_graph:
            raise OptionError(f"The folder {folder} has no {GRAPH_FILE} to print.")
        return 0
    page = folder / "index.html"
    if not page.is_file():
        advice = f"Write it with: modelviz export {folder} --format html" if has_graph else ""
        raise OptionError(f"The folder {folder} has no index.html to open. {advice}".strip())
    _open(page.resolve().as_uri(), options.browser)
    return 0


def _several(sources: list[Path], options: argparse.Namespace) -> int:
    """One page of all of them."""
    graphs = [_read(source) for source in sources]
    for graph in graphs:
        print_tree(full_text(Analysis(graph), depth=options.depth, width=width()))
    if options.text:
        return 0
    from modelviz_callbacks.writers.html import PageGraph, render_pages

    labels = [f"{graph.name}, {source}" for graph, source in zip(graphs, sources, strict=True)]
    pages = [PageGraph(Analysis(graph), label) for graph, label in zip(graphs, labels, strict=True)]
    page = Path(tempfile.mkdtemp(prefix="modelviz-")) / "index.html"
    page.write_bytes(render_pages(pages))
    _open(page.as_uri(), options.browser)
    return 0


def _read(source: Path) -> ModelGraph:
    return read_foreign(source) if is_foreign(source) else read_graph(str(source))


def _open(address: str, browser: bool) -> None:
    """Opens an address in the browser, and says it: there may be no browser here."""
    if browser and webbrowser.open(address):
        print(f"\nOpened {address}")
    else:
        print(f"\nOpen {address} in a browser")


def _onnx_in(folder: Path) -> Path:
    """The ONNX file to look at: the view of the graph rather than the trained model."""
    found = sorted(folder.glob("*.onnx"))
    preferred = [path for path in found if path.name == "graph.onnx"]
    views = [path for path in found if not path.name.endswith("model.onnx")]
    for path in (*preferred, *views, *found):
        return path
    raise OptionError(
        f"The folder {folder} has no .onnx file: it was switched off (onnx=False, --no-onnx), or "
        "report.json there says why it could not be made."
    )


def _netron(path: Path, port: int | None, browser: bool) -> int:
    try:
        netron = importlib.import_module("netron")
    except ImportError as error:
        raise ModelvizError(
            f"Netron is not installed: pip install netron, or open {path} at https://netron.app "
            "(it stays in your browser)."
        ) from error
    netron.start(str(path), address=("localhost", port) if port else None, browse=browser)
    netron.wait()
    return 0


def _run_of(folder: Path) -> Path:
    """The folder with the event file: this one, or the log folder around it."""
    for candidate in (folder, folder.absolute().parent):
        if any(candidate.glob(_EVENTS)):
            return candidate
    raise OptionError(
        f"Neither {folder} nor the folder around it has a TensorBoard event file: the graph was "
        "recorded with tensorboard=False, or into the folder of another writer."
    )


def _tensorboard(log_dir: Path, port: int | None, browser: bool) -> int:
    with says_what_is_missing():
        importlib.import_module("tensorboard")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
    command += ["--port", str(port)] if port else []
    address = f"http://localhost:{port or 6006}/#graphs"
    print(f"TensorBoard on {log_dir}; Ctrl-C ends it", flush=True)
    with subprocess.Popen(command) as process:
        try:
            if browser and process.poll() is None:
                webbrowser.open(address)
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            return 0
