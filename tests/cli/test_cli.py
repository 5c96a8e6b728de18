"""The commands of `modelviz`, in this process; a few through the installed program."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
import urllib.request
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import modelviz_callbacks
from modelviz_callbacks import trace
from modelviz_callbacks.cli import main
from modelviz_callbacks.cli.inputs import named, tensor
from modelviz_callbacks.cli.verbs import ABOUT
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.writers.formats import FORMATS
from tests.browser import free_port
from tests.networks import graph_of, recorded
from tests.writers.page_visit import content

PROGRAM = Path(sys.executable).parent / "modelviz"

MODELS = """
from pathlib import Path

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=10, width=16):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(width, classes)

    def forward(self, x, mask=None, scale=1.0):
        features = self.body(x)
        if mask is not None:
            features = features * mask
        return self.head(features) * scale


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 4)

    def forward(self, ids):
        return self.table(ids)


class Breaks(Net):
    def forward(self, x):
        self.body(x)
        raise ValueError("the head is missing")


made = Net()
number = 7


def with_inputs():
    return Net(), (torch.ones(4, 20),), {"scale": 3.0}


def raises():
    raise RuntimeError("no such checkpoint")


def none():
    return None
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of models, and Python's paths as before at the end."""
    (tmp_path / "cli_models.py").write_text(MODELS)
    (tmp_path / "cli_broken.py").write_text("import nothing_of_that_name\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("cli_models", "cli_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


QUICK = ["--no-onnx", "--no-tensorboard", "--formats", "text"]


def traced(*arguments: str, out: str = "out") -> tuple[int, ModelGraph]:
    """The exit status of `modelviz trace`, and the graph it wrote."""
    status = main(["trace", *arguments, "--out", out, *QUICK])
    return status, ModelGraph.load(Path(out) / "graph.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program writes for a model, all files."""
    where = tmp_path_factory.mktemp("traced")
    (where / "cli_models.py").write_text(MODELS)
    command = [str(PROGRAM), "trace", "cli_models:Net", "--input", "3x20", "--out", "full"]
    subprocess.run(command, cwd=where, check=True, timeout=300, env=_environment())
    return where / "full"


def _environment(**more: str) -> dict[str, str]:
    """A terminal's environment that does not reach the network or colour by itself."""
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    return plain | more


# --- the program


@pytest.mark.process
def test_the_program_is_installed_and_says_its_version() -> None:
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"modelviz {modelviz_callbacks.__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "modelviz_callbacks.cli", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == f"modelviz {modelviz_callbacks.__version__}\n"


COMMANDS = ("trace", "show", "export", "diff", "upload")


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(f"  {command} " in said for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_says_what_each_argument_is(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "show this help message" in said
    assert f"usage: modelviz {command}" in said


@pytest.mark.parametrize(
    "arguments", [[], ["look"], ["export"], ["diff", "one"], ["show", "x", "--port", "no"]]
)
def test_wrong_arguments_end_with_status_2_and_a_usage_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: modelviz" in capsys.readouterr().err


# --- trace


def test_trace_writes_every_file_of_a_run(folder: Path) -> None:
    names = {path.name for path in folder.iterdir() if "tfevents" not in path.name}
    assert names == {row.file for kind, row in FORMATS.items() if kind != "mermaid"} | {
        "graph.json",
        "graph.onnx",
        "report.json",
    }
    assert list(folder.glob("events.out.tfevents.*"))
    report = json.loads((folder / "report.json").read_text())
    assert report["refused"] == []


def test_trace_goes_on_counting_but_replaces_what_is_in_the_folder_that_is_named(
    models: Path,
) -> None:
    given = ["trace", "cli_models:Net", "--input", "3x20", *QUICK]
    for more in ([], [], ["--out", "mine"], ["--out", "mine"]):
        assert main([*given, *more]) == 0
    folders = {path.parent.relative_to(models).as_posix() for path in models.rglob("graph.json")}
    assert folders == {"model_graph/Net", "model_graph/Net_2", "mine"}


def test_trace_takes_a_class_a_model_a_function_and_a_file(models: Path) -> None:
    for name in ("cli_models:Net", "cli_models:made", str(models / "cli_models.py") + ":Net"):
        status, graph = traced(name, "--input", "3x20")
        assert (status, graph.name, graph.parameter_count) == (0, "Net", 506)
    status, graph = traced("cli_models:with_inputs")
    assert graph.by_name["x"].outputs[0].shape == (4, 20)
    assert graph.by_name["mul"].arguments[1].value == 3.0


def test_trace_hands_named_inputs_to_the_forward_and_to_the_factory(models: Path) -> None:
    _, graph = traced(
        "cli_models:Net",
        *("--factory-kwarg", "classes=3", "--input", "3x20"),
        *("--kwarg", "mask=3x16", "--kwarg", "scale=2.0", "--name", "masked"),
    )
    assert graph.name == "masked"
    assert [node.path for node in graph.of_kind("input")] == ["x", "mask"]
    assert graph.spec(graph.of_kind("output")[0].inputs[0]).shape == (3, 3)


def test_trace_takes_whole_numbers_below_a_bound(models: Path) -> None:
    status, graph = traced("cli_models:Words", "--input", "2x7:int64:50")
    assert status == 0
    assert graph.by_name["ids"].outputs[0].dtype == "int64"


def test_trace_runs_in_the_mode_that_is_asked_for(models: Path) -> None:
    for flags, training in ((["--eval"], False), (["--train"], True), ([], True)):
        _, graph = traced("cli_models:Net", "--input", "3x20", *flags)
        assert {call.training for call in graph.modules} == {training}


def test_trace_keeps_what_ran_before_a_forward_raised(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, graph = traced("cli_models:Breaks", "--input", "3x20")
    assert status == 1
    assert graph.partial
    assert [node.op for node in graph.ops] == ["linear", "relu", "dropout"]
    said = capsys.readouterr().err
    assert "ValueError: the head is missing" in said
    assert "cli_models.py" in said
    assert said.endswith("the graph of what ran until then is in out\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cli_models"], "expected MODULE:FACTORY"),
        (["no_such_module:Net"], "There is no module 'no_such_module', neither installed nor in"),
        (["no_such_file.py:Net"], "There is no file no_such_file.py"),
        (["cli_broken:Net"], "No module named 'nothing_of_that_name'"),
        (["cli_models:Nets"], "cli_models has no 'Nets'. It has Path, Net, Words, Breaks"),
        (["cli_models:number"], "cli_models:number is a int: it cannot be called"),
        (["cli_models:none"], "gave a NoneType: expected a torch.nn.Module"),
        (["cli_models:raises"], "RuntimeError: no such checkpoint"),
        (["cli_models:Net", "--factory-kwarg", "colour=3"], "unexpected keyword argument"),
        (["cli_models:made", "--factory-kwarg", "classes=3"], "is a model already"),
        (["cli_models:Net", "--input", "3xa"], "'3xa' is not a shape; expected sizes with x"),
        (["cli_models:Net", "--input", "3:float12"], "torch has no dtype 'float12'"),
        (["cli_models:Net", "--input", "3:int64:x"], "'x' is not a number"),
        (["cli_models:Net", "--kwarg", "mask"], "expected NAME=VALUE"),
    ],
)
def test_trace_says_what_is_wrong_and_ends_with_status_2(
    models: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *arguments, "--out", "out", *QUICK]) == 2
    assert message in capsys.readouterr().err
    assert not (models / "out").exists()


def test_the_traceback_of_a_factory_shows_the_users_lines_only(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["trace", "cli_models:raises"])
    said = capsys.readouterr().err
    assert "cli_models.py" in said
    assert "modelviz_callbacks/cli" not in said


def test_inputs_have_the_shape_and_dtype_that_were_said() -> None:
    for text, shape, dtype in (
        ("2x3", (2, 3), torch.float32),
        ("5:bfloat16", (5,), torch.bfloat16),
        ("scalar:float64", (), torch.float64),
        ("2x2:complex64", (2, 2), torch.complex64),
        ("4:bool", (4,), torch.bool),
        ("0x3:int32", (0, 3), torch.int32),
    ):
        made = tensor(text)
        assert (tuple(made.shape), made.dtype) == (shape, dtype)
    ids = tensor("1000:int64:30")
    assert 0 <= int(ids.min()) <= int(ids.max()) < 30
    assert int(ids.max()) > 1


def test_named_values_are_tensors_literals_or_text() -> None:
    assert named("depth=3") == ("depth", 3)
    assert named("use_cache=False") == ("use_cache", False)
    assert named("sizes=[1, 2]") == ("sizes", [1, 2])
    assert named("mode=nearest") == ("mode", "nearest")
    name, value = named("mask=3:bool")
    assert (name, value.shape, value.dtype) == ("mask", (3,), torch.bool)
    with pytest.raises(OptionError, match="--kwarg 3=4: expected NAME=VALUE"):
        named("3=4")


# --- show


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that would have been opened in the browser."""
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: addresses.append(address) or True)
    return addresses


def test_show_prints_the_tree_and_opens_the_page(
    folder: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(folder)]) == 0
    address = (folder / "index.html").as_uri()
    assert opened == [address]
    said = capsys.readouterr().out
    assert str(ModelGraph.load(folder / "graph.json")) in said
    assert f"Opened {address}" in said


def test_show_says_the_address_where_no_browser_may_be_opened(
    folder: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(folder), "--no-browser"]) == 0
    assert opened == []
    assert f"Open {(folder / 'index.html').as_uri()} in a browser" in capsys.readouterr().out


def test_show_finds_the_folder_below_a_runs_log_folder(
    tmp_path: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    inner = tmp_path / "model_graph"
    inner.mkdir()
    graph_of("article_cnn").save(inner / "graph.json")
    assert main(["show", str(tmp_path), "--text", "--depth", "1"]) == 0
    said = capsys.readouterr().out
    assert "Sequential" in said
    assert "Conv2d" not in said
    assert opened == []


def test_show_says_how_to_make_a_page_that_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph_of("article_cnn").save(tmp_path / "graph.json")
    assert main(["show", str(tmp_path)]) == 2
    advice = f"modelviz export {tmp_path} --format html"
    assert advice in capsys.readouterr().err
    assert main(advice.split()[1:]) == 0
    assert main(["show", str(tmp_path), "--no-browser"]) == 0


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--netron", "has no .onnx file"),
        ("--tensorboard", "has a TensorBoard event file"),
        ("--text", "has no graph.json to print"),
        ("--no-browser", "has no index.html to open"),
    ],
)
def test_show_says_what_a_folder_has_not(
    tmp_path: Path, flag: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(tmp_path), flag]) == 2
    assert message in capsys.readouterr().err
    assert main(["show", str(tmp_path / "nowhere"), flag]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_show_hands_the_view_of_the_graph_to_netron(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    netron = types.SimpleNamespace(
        start=lambda *args, **kwargs: calls.append((args, kwargs)), wait=lambda: None
    )
    monkeypatch.setitem(sys.modules, "netron", netron)  # type: ignore[arg-type]
    for name in ("model.onnx", "generator.onnx", "generator.model.onnx"):
        (tmp_path / name).touch()
    assert main(["show", str(tmp_path), "--netron", "--port", "81", "--no-browser"]) == 0
    (tmp_path / "graph.onnx").touch()
    assert main(["show", str(tmp_path), "--netron"]) == 0
    assert calls == [
        ((str(tmp_path / "generator.onnx"),), {"address": ("localhost", 81), "browse": False}),
        ((str(tmp_path / "graph.onnx"),), {"address": None, "browse": True}),
    ]


def test_show_says_how_to_get_netron_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "netron", None)
    (tmp_path / "graph.onnx").touch()
    assert main(["show", str(tmp_path), "--netron"]) == 2
    assert "pip install netron" in capsys.readouterr().err


def test_show_says_how_to_get_tensorboard_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    (tmp_path / "events.out.tfevents.1").touch()
    assert main(["show", str(tmp_path), "--tensorboard"]) == 2
    assert 'pip install "modelviz-callbacks[tensorboard]"' in capsys.readouterr().err


@pytest.mark.server
def test_show_serves_the_run_in_a_real_tensorboard_until_it_is_interrupted(folder: Path) -> None:
    port = free_port()
    command = [PROGRAM, "show", folder, "--tensorboard", "--port", str(port), "--no-browser"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        # The data may come a moment after the server.
        runs = _eventually(lambda: _json(f"http://127.0.0.1:{port}/data/plugin/graphs/info"))
        assert runs["."]["run_graph"]
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _json(address: str) -> dict[str, dict[str, bool]]:
    with urllib.request.urlopen(address, timeout=5) as answer:
        found: dict[str, dict[str, bool]] = json.load(answer)
        return found


def _eventually(
    ask: Callable[[], dict[str, dict[str, bool]]], within_s: float = 120
) -> dict[str, dict[str, bool]]:
    """The first answer that is not empty."""
    end = time.monotonic() + within_s
    while True:
        try:
            found = ask()
        except OSError:
            found = {}
        if found or time.monotonic() > end:
            return found
        time.sleep(0.3)


# --- export


@pytest.mark.parametrize("kind", FORMATS)
def test_export_writes_each_format_from_the_graph_alone(kind: str, tmp_path: Path) -> None:
    graph_of("article_cnn").save(tmp_path / "graph.json")
    assert main(["export", str(tmp_path), "--format", kind]) == 0
    assert (tmp_path / FORMATS[kind].file).stat().st_size > 200


def test_export_of_what_trace_wrote_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    kinds = ["svg", "text", "markdown", "csv"]
    assert main(["export", str(folder), "--format", *kinds, "html", "--out", str(tmp_path)]) == 0
    names = [FORMATS[kind].file for kind in kinds]
    # Told by name: pytest takes minutes to show in what two pictures differ.
    assert [n for n in names if (tmp_path / n).read_bytes() != (folder / n).read_bytes()] == []
    written = [(at / FORMATS["html"].file).read_bytes() for at in (folder, tmp_path)]
    pages = [json.loads(content(page)) for page in written]
    assert pages[0].pop("code")
    assert not pages[1].pop("code")  # a graph.json has no lines of source
    assert [key for key in pages[0] if pages[0][key] != pages[1].get(key)] == []
    assert pages[0].keys() == pages[1].keys()


def test_export_opens_as_many_levels_as_asked_for(tmp_path: Path) -> None:
    graph_of("article_cnn").save(tmp_path / "graph.json")
    assert main(["export", str(tmp_path / "graph.json"), "--depth", "1"]) == 0
    assert b"Conv2d" not in (tmp_path / "graph.svg").read_bytes()


def test_export_writes_one_format_to_standard_output(
    folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["export", str(folder), "--format", "svg", "--out", "-"]) == 0
    assert capfdbinary.readouterr().out == (folder / "graph.svg").read_bytes()
    assert main(["export", str(folder), "--format", "svg", "text", "--out", "-"]) == 2


@pytest.mark.process
def test_help_and_a_wrong_command_load_no_command() -> None:
    code = (
        "import sys; from modelviz_callbacks.cli import main\n"
        "for given in ['--help'], ['nonsense']:\n"
        "    try: main(given)\n"
        "    except SystemExit: pass\n"
        "print('MODULES', *[n for n in sys.modules if n.startswith('modelviz_callbacks.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    told, _, loaded = done.stdout.partition("MODULES")
    names = {name.removeprefix("modelviz_callbacks.") for name in loaded.split()}
    assert names == {"cli", "cli.any_encoding", "cli.verbs", "errors", "libraries"}
    assert all(f"    {name} " in told for name in ABOUT)
    assert "invalid choice: 'nonsense'" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp1251", "cp1252", "utf-8"])
def test_a_console_without_a_sign_of_the_texts_is_told_the_rest(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gpt", "article_cnn"):
        (tmp_path / name).mkdir()
        graph_of(name).save(tmp_path / name / "graph.json")
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", console)
    assert main(["show", str(tmp_path / "article_cnn"), "--text"]) == 0
    assert main(["diff", str(tmp_path / "gpt"), str(tmp_path / "article_cnn")]) == 1
    assert console.errors == "strict"
    told = console.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert re.search(r"\b\d+[x×]\d+[x×]\d+[x×]\d+\b", told)
    assert ("×" in told) == (encoding in ("cp1252", "utf-8"))
    assert "\\x" not in told


@pytest.mark.process
def test_export_and_diff_and_show_load_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    graph_of("article_cnn").save(tmp_path / "graph.json")
    formats = "html text markdown csv mermaid svg"
    commands = [
        ["export", str(tmp_path), "--format", *formats.split()],
        ["diff", str(tmp_path), str(tmp_path), "--svg", str(tmp_path / "diff.svg")],
        ["show", str(tmp_path), "--no-browser"],
    ]
    code = (
        "import sys; from modelviz_callbacks.cli import main\n"
        f"assert [main(command) for command in {commands!r}] == [0, 0, 0]\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = set(eval(done.stderr.splitlines()[-1]))
    assert "quickjs" in loaded
    assert (
        loaded & {"torch", "lightning", "mlflow", "onnx", "tensorboard", "numpy", "rich"} == set()
    )


@pytest.mark.process
def test_a_reader_that_stops_early_is_no_error(folder: Path) -> None:
    done = subprocess.run(
        f"{PROGRAM} export {folder} --format html --out - | head -c 10 >/dev/null; "
        "echo ${PIPESTATUS[0]}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


# --- diff


def graph_file(path: Path, *layers: nn.Module) -> str:
    recorded(nn.Sequential(*layers), torch.zeros(2, 8)).save(path)
    return str(path)


@pytest.mark.slow
@pytest.mark.process
def test_diff_names_the_layer_that_two_runs_differ_in(folder: Path) -> None:
    command = [str(PROGRAM), "trace", "cli_models:Net", "--input", "5x20", "--out", "wide", *QUICK]
    command += ["--factory-kwarg", "classes=20"]
    subprocess.run(command, cwd=folder.parent, check=True, timeout=300)
    done = subprocess.run(
        [PROGRAM, "diff", "full", "wide", "--svg", "pictures/diff.svg"],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    changes = [line for line in done.stdout.splitlines() if line[:3] in ("  ~", "  +", "  -")]
    assert changes[0] == "  ~ head: Linear(16 -> 10) became Linear(16 -> 20)"
    assert changes[1:] == ["  ~ output: 3×10 float32 became 5×20 float32"]
    assert "\x1b" not in done.stdout
    assert b"head" in (folder.parent / "pictures/diff.svg").read_bytes()


@pytest.mark.slow
@pytest.mark.process
def test_diff_of_one_architecture_from_two_processes_ends_with_status_0(folder: Path) -> None:
    command = [str(PROGRAM), "trace", "cli_models:Net", "--input", "7x20", "--out", "again"]
    command += [*QUICK, "--seed", "5"]
    environment = _environment(PYTHONHASHSEED="77")
    subprocess.run(command, cwd=folder.parent, check=True, timeout=300, env=environment)
    again = str(folder.parent / "again")
    assert main(["diff", str(folder), again]) == 0
    assert main(["diff", str(folder), again, "--strict"]) == 1


@pytest.mark.process
def test_diff_prints_colours_on_a_terminal(tmp_path: Path) -> None:
    one = graph_file(tmp_path / "a.json", nn.Linear(8, 8))
    two = graph_file(tmp_path / "b.json", nn.Linear(8, 8), nn.ReLU())
    said = _on_a_terminal([str(PROGRAM), "diff", one, two])
    assert "\x1b[32m  + 1: ReLU" in said, "green"
    said = _on_a_terminal([str(PROGRAM), "diff", two, one])
    assert "\x1b[31m  - 1: ReLU" in said, "red"


@pytest.mark.process
def test_show_prints_colours_on_a_terminal(tmp_path: Path) -> None:
    graph_of("gpt").save(tmp_path / "graph.json")
    said = _on_a_terminal([str(PROGRAM), "show", str(tmp_path), "--text"])
    assert "\x1b[1;35mx12\x1b[0m" in said


def _on_a_terminal(command: list[str]) -> str:
    """What a command writes to a terminal."""
    ours, its = pytest.importorskip("pty").openpty()
    process = subprocess.Popen(
        command, stdout=its, stderr=its, env=_environment(TERM="xterm-256color", COLUMNS="400")
    )
    os.close(its)
    said = b""
    # Reading fails, rather than ends, when the other side is closed.
    with contextlib.suppress(OSError):
        while part := os.read(ours, 65536):
            said += part
    process.wait(60)
    os.close(ours)
    return said.decode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no file or folder"),
        (b"{", "is not a model graph"),
        (b"\xff\xfe\x00", "it is not text"),
        (b'{"schema": 99}', "schema"),
    ],
)
def test_diff_of_what_is_no_graph_ends_with_status_2(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = graph_file(tmp_path / "a.json", nn.Linear(8, 8))
    other = tmp_path / "b.json"
    if content is not None:
        other.write_bytes(content)
    assert main(["diff", one, str(other)]) == 2
    assert message in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["diff", one, str(tmp_path / "empty")]) == 2
    assert "has no graph.json" in capsys.readouterr().err


def test_show_makes_one_page_of_several_graphs_and_of_files_of_others(
    tmp_path: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net"
    net.mkdir()
    graph_of("article_cnn").save(net / "graph.json")
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "linear.pt2")
    onnx_file = tmp_path / "cnn.onnx"
    trace(torch.nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 5, 5)).save_onnx(onnx_file)
    sources = [str(net), str(tmp_path / "linear.pt2"), str(onnx_file)]
    assert main(["show", *sources]) == 0
    (address,) = opened
    page = Path(address.removeprefix("file://"))
    try:
        found = content(page.read_bytes())
    finally:
        shutil.rmtree(page.parent)
    for source in sources:
        assert source in found
    assert "aten.linear.default" in found
    assert '"Conv"' in found
    assert main(["show", *sources, "--netron"]) == 2
    assert "give one" in capsys.readouterr().err
