from __future__ import annotations

import math
import os
import threading

import pytest
from mlflow.exceptions import MlflowException, RestException
from requests import ConnectionError as NoConnection

from modelviz_callbacks.trackers.mlflow.calls import Caller, CallFailed, bounded


def test_the_environment_is_bounded_inside_the_block_and_restored_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    before = dict(os.environ)

    inside: dict[str, str] = {}

    def fail_inside() -> None:
        with bounded(max_retries=3, timeout_s=4.0):
            inside.update(os.environ)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert inside["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "4"
    assert inside["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
    assert inside["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] == "false"
    assert dict(os.environ) == before


def test_two_threads_that_are_in_it_at_once_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    entered, leaves = threading.Event(), threading.Event()

    def stay() -> None:
        with bounded(timeout_s=4.0):
            entered.set()
            leaves.wait()

    thread = threading.Thread(target=stay)
    with bounded(timeout_s=3.0):
        thread.start()
        entered.wait()
    # The first to come is the first to leave: what was there before is not its to put back.
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "4"
    leaves.set()
    thread.join()
    assert dict(os.environ) == before


def test_time_that_becomes_little_while_a_call_is_made_ends_it() -> None:
    never, asked = threading.Event(), []

    def remaining_s() -> float:
        asked.append(None)
        return math.inf if len(asked) < 3 else 0.0

    with pytest.raises(CallFailed, match="no answer before time was up"):
        Caller(remaining_s, timeout_s=10).once(never.wait)
    never.set()

    assert len(asked) == 3


def test_a_call_is_made_as_often_as_there_are_tries() -> None:
    made: list[None] = []

    def call() -> None:
        made.append(None)
        raise NoConnection("down")

    with pytest.raises(CallFailed, match="down"):
        Caller(deadline_s=60, timeout_s=10, tries=2).until_done(call)
    assert len(made) == 2


def test_a_call_that_never_ends_is_left_alone_when_time_is_up() -> None:
    never = threading.Event()
    with pytest.raises(CallFailed, match="no answer before time was up") as raised:
        Caller(deadline_s=0.3, timeout_s=10).once(never.wait)
    never.set()

    assert not raised.value.lasting


def test_a_call_is_repeated_until_it_works() -> None:
    left = [NoConnection("down"), MlflowException("still down"), None]

    def call() -> str:
        if (error := left.pop(0)) is not None:
            raise error
        return "done"

    assert Caller(deadline_s=60, timeout_s=10).until_done(call) == "done"


@pytest.mark.parametrize(
    "error",
    [
        RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}),
        MlflowException.invalid_parameter_value("no"),
        PermissionError("no"),
        ImportError("no"),
    ],
)
def test_a_call_that_cannot_work_is_made_once(error: Exception) -> None:
    made: list[None] = []

    def call() -> None:
        made.append(None)
        raise error

    with pytest.raises(CallFailed, match="no") as raised:
        Caller(deadline_s=60, timeout_s=10).until_done(call)

    assert raised.value.lasting
    assert len(made) == 1


def test_time_that_is_up_is_up_for_later_calls_too_but_not_for_the_last() -> None:
    caller = Caller(deadline_s=0.0, timeout_s=10)

    with pytest.raises(CallFailed, match="time was up"):
        caller.once(lambda: "done")
    assert caller.once(lambda: "ended", last=True) == "ended"


def test_what_failed_is_said_in_one_line_without_credentials() -> None:
    made: list[None] = []

    def call() -> None:
        made.append(None)
        raise MlflowException(
            "API request to http://ann:secret@h:1/api failed with exception Pool(host='h'): Max "
            "retries exceeded (Caused by NewConnectionError(\"Connection(host='h'): refused\"))\n"
            "second line"
        )

    with pytest.raises(CallFailed) as raised:
        Caller(deadline_s=lambda: 0.0 if made else 600.0, timeout_s=10).until_done(call)

    assert raised.value.reason == "Connection(host='h'): refused"
    # A traceback prints what an error was raised from.
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
