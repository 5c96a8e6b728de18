"""What holds for every tracker, and for several together when one of them fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef

from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.trackers.interface import MultiTracker, Tracker, UploadError
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget
from modelviz_callbacks.trackers.registry import TRACKERS, make_tracker
from tests.trackers.conftest import Store

GRAPH = GraphDef()
GRAPH.node.add(name="x", op="Input")
EVENT = Event(graph_def=GRAPH.SerializeToString())
# A task of ClearML takes ten seconds to end; `tests.trackers.test_live` has one in a process.
IN_THIS_PROCESS = [kind for kind in TRACKERS if kind != "clearml"]
CALLS = ("log_files", "log_tags", "log_metrics", "log_description", "log_model", "log_events")


class Places(dict[str, Any]):
    """A good target for each kind of tracker; what takes its time to begin only if asked for."""

    def __init__(self, begun: Mapping[str, Callable[[], Any]], **ready: Any) -> None:
        super().__init__(ready)
        self._begun = begun

    def __missing__(self, kind: str) -> Any:
        self[kind] = self._begun[kind]()
        return self[kind]


@pytest.fixture
def places(store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """A good target for each kind of tracker."""
    return Places(
        {"wandb": partial(request.getfixturevalue, "wandb_run")},
        tensorboard=str(tmp_path / "runs"),
        mlflow=MlflowTarget(store.uri, store.new_run()),
        function=lambda files, figures: None,
        folder=f"memory://{tmp_path.name}",
    )


@pytest.fixture
def bad_places(tmp_path: Path) -> dict[str, Any]:
    """A target for each that cannot be opened."""
    (tmp_path / "file").write_text("")
    return {
        "tensorboard": str(tmp_path / "file"),
        "mlflow": MlflowTarget("http://ann:secret-pw@127.0.0.1:9", "0" * 32),
        "wandb": "no run",
        "clearml": "no task",
        "function": "no function",
        "folder": "nowhere://ann:secret-pw@host/folder",
    }


@pytest.fixture
def given(tmp_path: Path) -> dict[str, tuple[Any, ...]]:
    """What each call is given."""
    (tmp_path / "graph.svg").write_text("<svg/>")
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([node], "net", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, ir_version=9), tmp_path / "model.onnx")
    return {
        "log_files": ({"graph.svg": tmp_path / "graph.svg"},),
        "log_tags": ({"modelviz.class": "Net"},),
        "log_metrics": ({"modelviz.ops": 3.0},),
        "log_description": ("![net](artifact:model_graph/graph.svg)",),
        "log_model": (tmp_path / "model.onnx", "model"),
        "log_events": ([EVENT],),
    }


class Failing(Tracker):
    """Fails at one call, in its own way."""

    name = "failing"
    place = "nowhere"

    def __init__(self, call: str, error: Exception) -> None:
        self._call, self._error = call, error
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name not in (*CALLS, "open", "close"):
            return object.__getattribute__(self, name)

        def call(*_: object) -> None:
            self.calls.append(name)
            if name == self._call:
                raise self._error

        return call


def everything(tracker: Tracker, given: Mapping[str, tuple[Any, ...]]) -> None:
    tracker.open()
    for call in CALLS:
        getattr(tracker, call)(*given[call])
    tracker.close()


def arrived(places: Mapping[str, Any], store: Store) -> set[str]:
    """Which calls left something in the two real trackers."""
    run_id = places["mlflow"].run_id
    run = store.client.get_run(run_id)
    note = run.data.tags.get("mlflow.note.content", "")
    events = EventAccumulator(places["tensorboard"])
    events.Reload()
    found = {
        "log_files": bool(store.client.list_artifacts(run_id, "model_graph")),
        "log_tags": "modelviz.class" in run.data.tags,
        "log_metrics": "modelviz.ops" in run.data.metrics,
        "log_description": "model_graph%2Fgraph.svg" in note,
        "log_model": bool(store.client.search_logged_models([store.experiment_id])),
        "log_events": events.Tags()["graph"],
    }
    return {call for call, is_there in found.items() if is_there}


def make(kind: str, target: Any, deadline_s: float = 60.0) -> Tracker:
    return make_tracker(kind, target, "net", deadline_s)


@pytest.mark.parametrize("kind", IN_THIS_PROCESS)
def test_every_call_is_allowed_after_open_and_close_may_come_twice(
    kind: str, places: dict[str, Any], given: dict[str, tuple[Any, ...]]
) -> None:
    tracker = make(kind, places[kind])
    everything(tracker, given)
    tracker.close()

    assert tracker.name
    assert tracker.place
    assert isinstance(tracker.run_id, str)


@pytest.mark.parametrize("kind", TRACKERS)
def test_nothing_is_begun_by_a_tracker_that_is_made_and_closed(
    kind: str, bad_places: dict[str, Any], tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    make(kind, bad_places[kind], deadline_s=1.0).close()

    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", TRACKERS)
def test_a_place_that_cannot_be_opened_is_an_error_of_ours_without_credentials(
    kind: str, bad_places: dict[str, Any]
) -> None:
    with pytest.raises(TrackerError) as raised:
        make(kind, bad_places[kind], deadline_s=1.0).open()

    assert "secret-pw" not in str(raised.value)


@pytest.mark.alike
@pytest.mark.parametrize("error", [TrackerError("it is full"), RuntimeError("a mistake")])
@pytest.mark.parametrize("call", [*CALLS, "open", "close"])
def test_a_tracker_that_fails_in_the_middle_keeps_nothing_from_the_others(
    call: str,
    error: Exception,
    places: dict[str, Any],
    given: dict[str, tuple[Any, ...]],
    store: Store,
) -> None:
    failing = Failing(call, error)
    trackers = MultiTracker(
        [make("mlflow", places["mlflow"]), failing, make("tensorboard", places["tensorboard"])]
    )
    everything(trackers, given)

    assert arrived(places, store) == set(CALLS)
    assert len(trackers.errors) == 1
    assert str(error) in str(trackers.error())
    assert failing.calls == (["open", "close"] if call == "open" else ["open", *CALLS, "close"])


@pytest.mark.parametrize("kind", TRACKERS)
def test_one_that_cannot_be_opened_costs_one_error_and_nothing_of_the_others(
    kind: str,
    places: dict[str, Any],
    bad_places: dict[str, Any],
    given: dict[str, tuple[Any, ...]],
    store: Store,
) -> None:
    trackers = MultiTracker(
        [
            make("tensorboard", places["tensorboard"]),
            make(kind, bad_places[kind], deadline_s=1.0),
            make("mlflow", places["mlflow"]),
        ]
    )
    everything(trackers, given)

    assert arrived(places, store) == set(CALLS)
    assert [what for what, _ in trackers.errors] == ["everything"]
    assert trackers.has_files


def test_a_file_that_fails_keeps_no_tag_metric_description_or_model_away(
    places: dict[str, Any], given: dict[str, tuple[Any, ...]], store: Store, tmp_path: Path
) -> None:
    given["log_files"] = ({"gone.svg": tmp_path / "gone.svg", **given["log_files"][0]},)
    trackers = MultiTracker(
        [make("mlflow", places["mlflow"]), make("tensorboard", places["tensorboard"])]
    )
    everything(trackers, given)

    assert arrived(places, store) == set(CALLS)
    ((what, error),) = trackers.errors
    assert what == "the files"
    assert isinstance(error, UploadError)
    assert error.missing == ("gone.svg",)


def test_several_errors_are_told_as_one_the_first_in_full() -> None:
    first = Failing("log_files", TrackerError("could not upload a.svg: no route. Check it."))
    second = Failing("log_tags", TrackerError("could not set tags: no time.", "no time"))
    trackers = MultiTracker([first, second])
    everything(trackers, dict.fromkeys(CALLS, ({},)) | {"log_model": (Path("a"), "b")})

    assert str(trackers.error()) == (
        "could not upload a.svg: no route. Check it. Missing as well: the tags: no time."
    )
    assert trackers.has_files  # the second took them


def test_a_name_that_is_not_in_the_registry_is_refused() -> None:
    with pytest.raises(KeyError):
        make("nowhere", None)
