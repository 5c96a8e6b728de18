"""Files are made by a process of its own: the same files, whatever happens to either process."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from benchmarks.faults.left_behind import graphs_in_events
from modelviz_callbacks import GraphHook, GraphLogger, ModelGraph
from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.errors import WorkerError
from modelviz_callbacks.jobs.in_worker import InWorker
from modelviz_callbacks.jobs.job import Job
from modelviz_callbacks.jobs.queue import QUEUE, JobQueue
from modelviz_callbacks.jobs.worker_process import Worker
from modelviz_callbacks.jobs.worker_program import main as work_on
from modelviz_callbacks.options import Options
from modelviz_callbacks.report import ModelvizWarning, Report
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget
from tests.lightning_modules import Classifier, data, trainer_for
from tests.models import build
from tests.samples import one_and_the_rest_slow
from tests.waiting import PATIENCE_S, wait_for
from tests.zoo.leaves import difference
from tests.zoo.switches import switches

ALL_FILES = {
    "graph.json",
    "graph.txt",
    "graph.csv",
    "graph.svg",
    "graph.png",
    "graph.md",
    "index.html",
    "backward.svg",
    "backward.html",
    "graph.onnx",
    "report.json",
}
FEW: dict[str, Any] = {"formats": ["text"], "onnx": False, "tensorboard": False}
WITHIN_S = PATIENCE_S


def the_worker() -> Worker:
    """The one worker of this process."""
    assert QUEUE.worker is not None
    return QUEUE.worker


def wait_until_done(folder: Path) -> None:
    """Waits until the worker has made everything of the jobs beside a folder's files."""
    jobs = list(folder.glob(".job-*"))
    assert jobs
    wait_for(lambda: all((job / "done").exists() for job in jobs))


def made(folder: Path, name: str, waits: bool = False, **options: Any) -> dict[str, bytes]:
    """The files of one of the small models, without those that tell when they were made."""
    model, args, kwargs = build(name)
    with GraphHook(model, dirpath=folder, mlflow=False, **options) as hook:
        model(*args, **kwargs)
        if waits:
            wait_until_done(folder)
    assert hook.report.refused == []
    assert set(hook.report.files) == ALL_FILES
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name in ALL_FILES - {"report.json"}
    }


@pytest.mark.parametrize("weights", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    one_and_the_rest_slow(["TwoBranches", "Transformer", "DictInDictOut", "KeepsRunningState"]),
)
def test_the_files_are_those_made_in_place(name: str, weights: bool, tmp_path: Path) -> None:
    here = made(tmp_path / "here", name, background=False, onnx_weights=weights)
    there = made(tmp_path / "there", name, waits=True, onnx_weights=weights)
    assert here.keys() == there.keys() == ALL_FILES - {"report.json"}
    for file in sorted(here):
        assert here[file] == there[file], file


def test_a_job_that_has_not_begun_when_training_ends_is_done_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = made(tmp_path / "here", "TwoBranches", background=False)
    rest(10 * WITHIN_S, monkeypatch)
    back = made(tmp_path / "back", "TwoBranches")
    assert back == here
    assert not list((tmp_path / "back").glob(".job-*"))
    assert QUEUE.worker is None


def test_the_weights_of_the_first_batch_go_along_if_asked_for(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    first = model.weight.detach().clone()
    with GraphHook(model, dirpath=tmp_path, onnx_weights=True, formats=[], tensorboard=False):
        model(torch.randn(3, 4))
        with torch.no_grad():
            model.weight.zero_()
    stored = onnx.load(tmp_path / "graph.onnx").graph.initializer
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stored}
    assert torch.equal(torch.tensor(values["weight"]), first)


def test_after_the_recorded_step_nothing_is_left_in_the_training_process(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    before = switches()
    hook = GraphHook(model, dirpath=tmp_path, **FEW)
    model(torch.randn(3, 4))
    assert difference(before, switches()) == ""
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    hook.close()
    assert hook.report.refused == []


def script(folder: Path, text: str, **environment: str) -> subprocess.Popen[str]:
    """A user's script, without a main guard, run in its own process."""
    path = folder / "train.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    root = str(Path(__file__).parent.parent.parent)
    return subprocess.Popen(
        [sys.executable, str(path)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root, **environment},
        start_new_session=True,
    )


@pytest.mark.slow
def test_training_that_is_killed_after_its_first_batch_leaves_every_file(tmp_path: Path) -> None:
    killed = script(
        tmp_path,
        """
        import os, signal, torch
        from modelviz_callbacks import GraphHook

        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        hook = GraphHook(model, dirpath="graphs")
        model(torch.randn(3, 4))
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    killed.communicate(timeout=WITHIN_S)
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "graphs"
    wait_for((folder / "report.json").exists)
    wait_for(lambda: not list(folder.glob(".job-*")))
    report = json.loads((folder / "report.json").read_text())
    assert report["refused"] == []
    assert set(report["files"]) == ALL_FILES
    assert all((folder / name).stat().st_size for name in ALL_FILES)
    assert ModelGraph.load(folder / "graph.json").parameter_count == 58


# What a worker has begun that gets no processor: it is ended, and its job is done in place.
_SLOW = "Worker.hurry, Worker.seconds_used = lambda _: False, lambda _: 0.0; begin_the_job()"
_KILL, _CTRL_C = "os.kill(os.getpid(), signal.SIGKILL)", "signal.raise_signal(signal.SIGINT)"


@pytest.mark.parametrize(
    ("end", "begun"),
    one_and_the_rest_slow(
        [
            pytest.param(_KILL, "", id="killed"),
            pytest.param(_CTRL_C, "", id="Ctrl-C"),
            pytest.param(_KILL, _SLOW, id="killed over what a slow worker had begun"),
        ]
    ),
)
def test_what_the_training_process_is_stopped_over_is_made_by_the_worker(
    end: str, begun: str, tmp_path: Path
) -> None:
    run = script(
        tmp_path,
        f"""
        import os, signal, torch
        from modelviz_callbacks import GraphHook
        from modelviz_callbacks.jobs import in_worker
        from modelviz_callbacks.jobs.worker_process import Worker
        from pathlib import Path

        make = in_worker.make

        def stopped(job):
            make(job)
            {end}

        def begin_the_job():
            (waiting,) = Path("graphs").glob(".job-*/job.json")
            waiting.rename(waiting.with_name("begun.json"))

        in_worker.make = stopped
        in_worker._REST_OF_A_STEP, in_worker._LONGEST_REST_S = float("inf"), 600.0
        model = torch.nn.Linear(4, 2)
        with GraphHook(model, dirpath="graphs", formats=["text"], onnx=False):
            model(torch.randn(3, 4))
            {begun}
        """,
    )
    out, err = run.communicate(timeout=WITHIN_S)
    if "KILL" in end:
        assert run.returncode == -signal.SIGKILL
    else:
        assert run.returncode == 0, err
        assert "not waited for" in out
    folder = tmp_path / "graphs"
    wait_for(lambda: (folder / "report.json").exists() and not list(folder.glob(".job-*")))
    report = json.loads((folder / "report.json").read_text())
    assert report["refused"] == []
    assert {"graph.json", "graph.txt"} <= set(report["files"])
    assert len(report["stored"]) == 1
    # In TensorBoard it is there once, though it was made twice.
    assert graphs_in_events(folder) == 1


@pytest.mark.slow
def test_events_that_the_training_process_is_killed_over_are_delivered_by_the_worker(
    tmp_path: Path,
) -> None:
    run = script(
        tmp_path,
        """
        import os, signal, torch
        from torch.utils.tensorboard import SummaryWriter
        from modelviz_callbacks import GraphHook
        from modelviz_callbacks.jobs import in_worker
        from modelviz_callbacks.jobs.job import Job
        from pathlib import Path
        import time

        take = Job.take_events

        def killed(job):
            take(job)
            os.kill(os.getpid(), signal.SIGKILL)

        Job.take_events = killed
        model = torch.nn.Linear(4, 2)
        writer = SummaryWriter("run")
        few = {"formats": ["text"], "onnx": False}
        with GraphHook(model, dirpath="graphs", tensorboard=writer, **few):
            model(torch.randn(3, 4))
            while not list(Path("graphs").glob(".job-*/done")):
                time.sleep(0.05)
        """,
    )
    run.communicate(timeout=WITHIN_S)
    assert run.returncode == -signal.SIGKILL
    wait_for(lambda: not list((tmp_path / "graphs").glob(".job-*")))
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert "Linear/layers" in events.Tags()["tensors"]


def killed_worker(folder: Path) -> GraphHook:
    """A hook whose worker was killed over its job."""
    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=folder, **FEW)
    model(torch.randn(3, 4))
    (job,) = folder.glob(".job-*")
    (job / "job.json").rename(job / "begun.json")  # as the worker does when it begins
    (folder / f".part-{the_worker().pid}-0123.txt").write_text("half a")
    the_worker().kill()
    model(torch.randn(3, 4))
    return hook


def test_what_a_worker_is_killed_over_is_made_by_another_one(tmp_path: Path) -> None:
    hook = killed_worker(tmp_path)
    hook.close()
    assert hook.report.refused == []
    assert {"graph.json", "graph.txt"} <= set(hook.report.files)
    wait_for(lambda: not list(tmp_path.glob(".*")))


@pytest.mark.slow
def test_what_two_workers_end_over_costs_a_warning_and_leaves_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobQueue, "submit_again", lambda self, *_: self.worker)
    hook = killed_worker(tmp_path)
    with pytest.warns(ModelvizWarning, match="ended early") as caught:
        hook.close()
    assert len(caught) == 1
    assert str(tmp_path / "worker.log") in str(caught[0].message)
    assert not (tmp_path / "graph.json").exists()
    # What it says to do works.
    again = str(caught[0].message).partition("again: ")[2].split()
    assert subprocess.run(again, stdin=subprocess.DEVNULL, check=False).returncode == 0
    assert ModelGraph.load(tmp_path / "graph.json").ops
    assert not list(tmp_path.rglob(".part-*"))


@pytest.mark.slow
def test_ctrl_c_while_waiting_ends_the_waiting_and_not_the_worker(tmp_path: Path) -> None:
    run = script(
        tmp_path,
        """
        import torch
        from modelviz_callbacks import GraphHook

        model = torch.nn.Linear(4, 2)
        with GraphHook(model, dirpath="graphs"):
            model(torch.randn(3, 4))
            import time
            from pathlib import Path
            while not list(Path("graphs").glob(".job-*/begun.json")):
                time.sleep(0.05)
        print("after the loop")
        """,
    )
    assert run.stdout is not None
    line = run.stdout.readline()
    assert "finishing the files" in line
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    out, err = run.communicate(timeout=WITHIN_S)
    assert run.returncode == 0, err
    assert "after the loop" in out
    assert "not waited for" in out
    folder = tmp_path / "graphs"
    wait_for(lambda: (folder / "report.json").exists() and not list(folder.glob(".job-*")))
    assert set(json.loads((folder / "report.json").read_text())["files"]) == ALL_FILES


def test_a_custom_op_of_the_script_itself_needs_no_import_of_it(tmp_path: Path) -> None:
    run = script(
        tmp_path,
        """
        import pathlib, torch
        from modelviz_callbacks import GraphHook

        pathlib.Path("runs").open("a").write("x")

        @torch.library.custom_op("mine::twice", mutates_args=())
        def twice(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @twice.register_fake
        def _(x):
            return torch.empty_like(x)

        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = torch.nn.Linear(4, 2)

            def forward(self, x):
                return twice(self.fc(x))

        model = Model()
        with GraphHook(model, dirpath="graphs", formats=["text"]) as hook:
            model(torch.randn(3, 4))
        assert hook.report.refused == [], hook.report
        """,
    )
    _, err = run.communicate(timeout=WITHIN_S)
    assert run.returncode == 0, err
    assert (tmp_path / "runs").read_text() == "x"  # nobody ran the script again
    model = onnx.load(tmp_path / "graphs" / "graph.onnx", load_external_data=False)
    assert [node.op_type for node in model.graph.node if node.domain == "pytorch"] == ["twice"]
    assert "twice" in (tmp_path / "graphs" / "graph.txt").read_text()


def test_an_op_named_like_the_script_does_not_run_the_script_again(tmp_path: Path) -> None:
    run = script(
        tmp_path,
        """
        import pathlib, torch
        from modelviz_callbacks import GraphHook

        pathlib.Path("runs").open("a").write("x")

        @torch.library.custom_op("train::twice", mutates_args=())
        def twice(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        class Model(torch.nn.Module):
            def forward(self, x):
                return twice(x)

        model = Model()
        with GraphHook(model, dirpath="graphs", formats=["text"]) as hook:
            model(torch.randn(3, 4))
        assert hook.report.refused == [], hook.report
        """,
    )
    _, err = run.communicate(timeout=WITHIN_S)
    assert run.returncode == 0, err
    assert (tmp_path / "runs").read_text() == "x"


@pytest.mark.slow
def test_output_that_knows_no_letters_or_is_closed_ends_nothing(tmp_path: Path) -> None:
    text = """
        import signal, sys, torch
        from modelviz_callbacks import GraphHook

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        model = torch.nn.Linear(4, 2)
        hook = GraphHook(model, dirpath="gr\u00e4phs", formats=["text"], onnx=False)
        model(torch.randn(3, 4))
        CLOSE
        hook.close()
        print("still here", file=sys.stderr)
        """
    for close in ("pass", "sys.stdout.close()"):
        folder = tmp_path / close[:4]
        folder.mkdir()
        run = script(folder, text.replace("CLOSE", close), PYTHONIOENCODING="ascii")
        _, err = run.communicate(timeout=WITHIN_S)
        assert run.returncode == 0, err
        assert "still here" in err


def test_the_graph_is_in_a_lightning_run_while_training_goes_on(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    seen: list[int] = []

    class UntilSeen(Classifier):
        def on_train_batch_end(self, *_: Any) -> None:
            self.trainer.should_stop = bool(graph_events(Path(logger.log_dir)))
            seen.append(self.global_step)
            time.sleep(0.02)

    callback = GraphLogger(formats=["text", "png"], onnx=False)
    trainer = trainer_for(tmp_path, callback, logger=logger, max_steps=20_000)
    trainer.fit(UntilSeen(), data(64))
    assert 1 < len(seen) < 20_000
    assert callback.report is not None
    assert callback.report.refused == []
    assert len(list(Path(logger.log_dir).glob("events.*"))) == 1
    events = EventAccumulator(logger.log_dir, {"images": 0, "tensors": 0, "scalars": 0})
    events.Reload()
    assert events.Tags()["graph"]
    assert "UntilSeen/layers" in events.Tags()["tensors"]
    assert events.Tags()["images"] == ["UntilSeen/picture"]
    assert len(events.Scalars("loss_step")) == len(seen)


def graph_events(log_dir: Path) -> bool:
    events = EventAccumulator(str(log_dir))
    events.Reload()
    return bool(events.Tags()["graph"])


def test_a_writer_of_the_users_gets_the_graph_at_once_and_the_rest_at_the_end(
    tmp_path: Path,
) -> None:
    model = nn.Linear(4, 2)
    with SummaryWriter(tmp_path / "run") as writer:
        hook = GraphHook(
            model, dirpath=tmp_path / "graphs", tensorboard=writer, onnx=False, formats=["png"]
        )
        model(torch.randn(3, 4))
        assert graph_events(tmp_path / "run")
        writer.add_scalar("loss", 1.0)
        hook.close()
    assert hook.report.refused == []
    assert len(list((tmp_path / "run").glob("events.*"))) == 1
    events = EventAccumulator(str(tmp_path / "run"), {"images": 0, "tensors": 0, "scalars": 0})
    events.Reload()
    assert "Linear/layers" in events.Tags()["tensors"]
    assert events.Tags()["images"] == ["Linear/picture"]
    assert not list((tmp_path / "graphs").glob(".job-*"))


def test_a_recording_that_cannot_be_handed_over_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> bytes:
        raise TypeError("cannot pickle 'Thing' object")

    monkeypatch.setattr("modelviz_callbacks.jobs.in_worker.pack", refuse)
    model = nn.Linear(4, 2)
    with GraphHook(model, dirpath=tmp_path, **FEW) as hook:
        model(torch.randn(3, 4))
    assert hook.report.refused == []
    assert any("cannot pickle" in remark for remark in hook.report.remarks)
    assert ModelGraph.load(tmp_path / "graph.json").ops


@pytest.mark.parametrize("waits", [True, False])
def test_what_a_worker_could_not_make_is_raised_if_asked_for(waits: bool, tmp_path: Path) -> None:
    (tmp_path / "graph.txt").mkdir()  # in the way
    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=tmp_path, on_error="raise", **FEW)
    model(torch.randn(3, 4))
    if waits:
        wait_until_done(tmp_path)
    with pytest.raises(WorkerError, match=r"graph\.txt"), pytest.warns(ModelvizWarning):
        hook.close()
    assert ModelGraph.load(tmp_path / "graph.json").ops


def test_a_worker_that_takes_too_long_goes_on_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelviz_callbacks.jobs.in_worker.WAIT_LIMIT_S", 0.0)
    monkeypatch.setattr("modelviz_callbacks.jobs.job.Job.take_back", lambda _: False)
    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=tmp_path, **FEW)
    model(torch.randn(3, 4))
    worker = the_worker()
    with pytest.warns(ModelvizWarning, match="goes on alone") as caught:
        hook.close()
    assert len(caught) == 1
    assert worker.wait(WITHIN_S)
    assert ModelGraph.load(tmp_path / "graph.json").ops
    assert not list(tmp_path.glob(".job-*"))


def test_the_worker_is_told_of_no_credentials_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, bytes] = {}
    submit = JobQueue.submit

    def look(self: JobQueue, job: Job, *args: Any, **parts: Any) -> Any:
        save = job.save

        def saved(*args: Any) -> None:
            save(*args)
            kept.update({path.name: path.read_bytes() for path in job.place.iterdir()})

        monkeypatch.setattr(job, "save", saved)
        return submit(self, job, *args, **parts)

    monkeypatch.setattr(JobQueue, "submit", look)
    monkeypatch.setattr("modelviz_callbacks.jobs.in_worker.UPLOAD_LIMIT_S", 0.5)
    uri = "http://user:hush-hush@127.0.0.1:9"
    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=tmp_path, mlflow=uri, **FEW)
    model(torch.randn(3, 4))
    worker = the_worker()
    with pytest.warns(ModelvizWarning) as caught:
        hook.close()
    worker.kill()
    assert set(kept) == {"job.json", "recording"}
    for path in tmp_path.rglob("*"):
        if path.is_file():
            kept[path.name] = path.read_bytes()
    for name, content in kept.items():
        assert b"hush-hush" not in content, name
    assert "hush-hush" not in str(caught[0].message)
    assert ModelGraph.load(tmp_path / "graph.json").ops


def rest(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets workers rest for so long before they begin, however short the forward was."""
    monkeypatch.setattr("modelviz_callbacks.jobs.in_worker._REST_OF_A_STEP", math.inf)
    monkeypatch.setattr("modelviz_callbacks.jobs.in_worker._LONGEST_REST_S", seconds)


def resting(folder: Path, rest_s: float, monkeypatch: pytest.MonkeyPatch) -> GraphHook:
    """A hook whose worker rests for so long before it begins."""
    rest(rest_s, monkeypatch)
    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=folder, **FEW)
    model(torch.randn(3, 4))
    return hook


@pytest.mark.slow
def test_a_worker_leaves_the_processor_to_the_step_that_called_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    hook = resting(tmp_path, 5.0, monkeypatch)
    wait_until_done(tmp_path)
    assert time.monotonic() - started >= 5.0
    hook.close()
    assert hook.report.refused == []


@pytest.mark.slow
def test_a_worker_rests_no_longer_when_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelviz_callbacks.jobs.job.Job.take_back", lambda _: False)
    hook = resting(tmp_path, 10 * WITHIN_S, monkeypatch)
    assert not the_worker().has_ended
    hook.close()
    assert hook.report.refused == []
    assert (tmp_path / "graph.txt").exists()


@pytest.mark.gives_way
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere its priority is its niceness")
def test_a_worker_gives_way_until_training_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies: list[int] = []
    hurry = Worker.hurry

    def look(self: Worker) -> bool:
        hurried = hurry(self)
        policies.append(os.sched_getscheduler(self.pid))
        return hurried

    monkeypatch.setattr("modelviz_callbacks.jobs.job.Job.take_back", lambda _: False)
    hook = resting(tmp_path, 10 * WITHIN_S, monkeypatch)
    pid = the_worker().pid
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    try:
        os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        expected = os.SCHED_OTHER
    except PermissionError:  # only a privileged process may raise another's
        expected = os.SCHED_IDLE
    monkeypatch.setattr(Worker, "hurry", look)
    hook.close()
    assert policies == [expected]
    assert hook.report.refused == []


def test_what_a_slow_worker_has_begun_is_made_in_place_where_others_keep_the_processors_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "hurry", lambda _: False)  # as for most users
    monkeypatch.setattr(Worker, "seconds_used", lambda _: 0.0)
    hook = resting(tmp_path, 10 * WITHIN_S, monkeypatch)
    (job,) = tmp_path.glob(".job-*")
    (job / "job.json").rename(job / "begun.json")  # as the worker does when it begins
    worker = the_worker()
    hook.close()
    assert worker.has_ended
    assert hook.report.refused == []
    assert (tmp_path / "graph.txt").exists()
    assert not list(tmp_path.glob(".job-*"))


def test_no_training_step_starts_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a process was started")

    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=tmp_path, **FEW)
    monkeypatch.setattr("modelviz_callbacks.jobs.worker_process.subprocess.Popen", refuse)
    model(torch.randn(3, 4))
    wait_until_done(tmp_path)
    hook.close()
    assert hook.report.refused == []
    assert not any("training process" in remark for remark in hook.report.remarks)


@pytest.mark.gives_way
@pytest.mark.skipif(sys.platform == "win32", reason="its priority is given by who starts it")
def test_a_worker_gives_way_before_the_first_step(tmp_path: Path) -> None:
    hook = GraphHook(nn.Linear(4, 2), dirpath=tmp_path, **FEW)
    pid = the_worker().pid
    if sys.platform == "linux":
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    else:
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    # Ctrl-C goes to a group of processes; priority counts within a session.
    assert os.getpgid(pid) == pid
    assert os.getsid(pid) == os.getsid(0)
    with pytest.warns(ModelvizWarning, match="Nothing was recorded"):
        hook.close()


def test_a_hook_that_records_nothing_leaves_no_process(tmp_path: Path) -> None:
    hook = GraphHook(nn.Linear(4, 2), dirpath=tmp_path, **FEW)
    worker = the_worker()
    with pytest.warns(ModelvizWarning, match="Nothing was recorded"):
        hook.close()
    assert worker.wait(WITHIN_S)


@pytest.mark.slow
def test_a_worker_without_a_job_ends_with_the_process_that_would_train(tmp_path: Path) -> None:
    # A child holds the line open, as a data loader's would.
    killed = script(
        tmp_path,
        """
        import os, signal, time, torch
        from modelviz_callbacks import GraphHook

        hook = GraphHook(torch.nn.Linear(4, 2), dirpath="graphs")
        child = os.fork()
        if child == 0:
            os.close(1), os.close(2)
            time.sleep(120)
            os._exit(0)
        from modelviz_callbacks.jobs.queue import QUEUE
        print(QUEUE.worker.pid, child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert killed.stdout is not None
    worker, child = map(int, killed.stdout.readline().split())
    killed.communicate(timeout=WITHIN_S)
    try:
        wait_for(lambda: not is_running(worker))
    finally:
        os.kill(child, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Whether a process is there and more than a zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_worker_that_dies_before_it_has_a_job_is_replaced(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=tmp_path, **FEW)
    first = the_worker()
    first.kill()
    model(torch.randn(3, 4))
    assert the_worker().pid != first.pid
    hook.close()
    assert hook.report.refused == []
    assert (tmp_path / "graph.txt").exists()


def test_workers_that_cannot_start_leave_the_files_to_the_training_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = "modelviz_callbacks.jobs.worker_process._start_code"
    monkeypatch.setattr(started, lambda _: "raise SystemExit(3)")
    monkeypatch.setattr("modelviz_callbacks.jobs.queue._START_LIMIT_S", WITHIN_S)
    model = nn.Linear(4, 2)
    with GraphHook(model, dirpath=tmp_path, **FEW) as hook:
        model(torch.randn(3, 4))
    assert hook.report.refused == []
    (remark,) = hook.report.remarks
    assert "no worker could be started" in remark
    assert "status 3" in remark
    assert (tmp_path / "graph.txt").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_worker_that_asks_the_terminal_is_told_no_and_not_stopped(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=tmp_path, **FEW)
    for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP):
        os.kill(the_worker().pid, number)
    model(torch.randn(3, 4))
    wait_until_done(tmp_path)
    hook.close()
    assert hook.report.refused == []


def test_a_forked_copy_of_a_hook_leaves_the_worker_to_the_original(tmp_path: Path) -> None:
    run = script(
        tmp_path,
        """
        import os, torch
        from modelviz_callbacks import GraphHook

        model = torch.nn.Linear(4, 2)
        hook = GraphHook(model, dirpath="graphs", formats=["text"], onnx=False)
        from modelviz_callbacks.jobs.queue import QUEUE
        waiting = QUEUE.worker
        child = os.fork()
        if child == 0:
            hook.close()
            os._exit(0)
        os.waitpid(child, 0)
        model(torch.randn(3, 4))
        assert QUEUE.worker is waiting
        assert not waiting.has_ended
        hook.close()
        assert hook.report.refused == [], hook.report
        """,
    )
    _, err = run.communicate(timeout=WITHIN_S)
    assert run.returncode == 0, err
    assert (tmp_path / "graphs" / "graph.txt").exists()


def test_a_rank_that_does_not_record_has_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = nn.Linear(4, 2)
    hook = GraphHook(late, dirpath=tmp_path, **FEW)
    worker = the_worker()
    monkeypatch.setenv("RANK", "1")
    late(torch.randn(3, 4))  # only now it is known
    hook.close()
    assert worker.wait(WITHIN_S)
    GraphHook(nn.Linear(4, 2), dirpath=tmp_path, **FEW)
    assert QUEUE.worker is None


@pytest.mark.parametrize("arguments", [[], [""], ["here", "there"]])
def test_wrong_arguments_for_a_worker_end_with_status_2_and_a_usage_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert work_on(arguments) == 2
    assert "usage: python -m modelviz_callbacks.jobs JOB" in capsys.readouterr().err


def test_a_loop_over_children_of_the_users_own_never_meets_the_worker(tmp_path: Path) -> None:
    run = script(
        tmp_path,
        """
        import os, torch
        from modelviz_callbacks import GraphHook

        model = torch.nn.Linear(4, 2)
        with GraphHook(model, dirpath="graphs", formats=["text"], onnx=False):
            child = os.fork()
            if child == 0:
                os._exit(0)
            met = []
            try:
                while True:
                    met.append(os.wait()[0])
            except ChildProcessError:
                pass
            assert met == [child], met
            model(torch.randn(3, 4))
        """,
    )
    _, err = run.communicate(timeout=WITHIN_S)
    assert run.returncode == 0, err
    assert (tmp_path / "graphs" / "graph.txt").exists()


def test_many_hooks_share_one_worker_which_ends_with_the_last(tmp_path: Path) -> None:
    models = [nn.Linear(4, 2) for _ in range(6)]
    hooks = [GraphHook(model, dirpath=tmp_path / str(n), **FEW) for n, model in enumerate(models)]
    worker = the_worker()
    for model in models:
        model(torch.randn(3, 4))
    for hook in hooks[:-1]:
        hook.close()
    assert the_worker() is worker
    hooks[-1].close()
    assert QUEUE.worker is None
    assert worker.wait(WITHIN_S)
    assert all(hook.report.refused == [] for hook in hooks)
    assert all((tmp_path / str(n) / "graph.txt").exists() for n in range(6))


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such modes")
@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o777])
def test_nobody_else_may_read_or_write_a_job_whatever_the_umask(mask: int, tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=tmp_path, **FEW)
    before = os.umask(mask)
    try:
        model(torch.randn(3, 4))
    finally:
        os.umask(before)
    jobs = list(tmp_path.glob(".job-*"))
    for path in [*jobs, *(file for job in jobs for file in job.iterdir())]:
        assert path.stat().st_mode & 0o077 == 0, path
    hook.close()
    assert hook.report.refused == []


def test_a_folder_of_jobs_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=tmp_path, **FEW)
    model(torch.randn(3, 4))
    (job,) = tmp_path.glob(".job-*")
    copy = tmp_path / "copy"
    shutil.copytree(job, copy)
    link = tmp_path / "link"
    link.symlink_to(job)
    copy.chmod(0o770)
    for place in (copy, link):
        with pytest.raises(WorkerError, match="this user alone"):
            Job.load(place)
    assert Job.load(job).folder == tmp_path
    hook.close()


def test_where_others_could_rename_the_job_it_is_kept_elsewhere(tmp_path: Path) -> None:
    shared = tmp_path / "lab"
    shared.mkdir()
    shared.chmod(0o777)
    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=shared / "run", **FEW)
    model(torch.randn(3, 4))
    assert not list(shared.rglob(".job-*"))
    hook.close()
    assert hook.report.refused == []
    assert (shared / "run" / "graph.txt").exists()


def test_an_upload_that_goes_on_alone_is_told_as_one_though_it_has_said_nothing_yet(
    tmp_path: Path,
) -> None:
    report = Report("net", str(tmp_path))
    worker = InWorker(Maker(Options(), tmp_path, report), None, has_own_writer=False, polls=False)
    job = Job(tmp_path, Options(), report, run=MlflowTarget(run_id="abc"), upload=["graph.json"])

    assert f"modelviz upload {tmp_path} --run abc" in str(worker._unfinished(job))
