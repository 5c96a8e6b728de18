"""A ``graph.json`` that anybody may have changed, through everything that reads one."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelviz_callbacks.cli import main
from modelviz_callbacks.graph.json_format import dumps
from tests.networks import graph_of
from tests.writers.graphs_by_hand import layers, two_branches

MUTATIONS = int(os.environ.get("MODELVIZ_FUZZ", "500"))
SEED = 16
LONGEST_S = 5.0

# What stands in a file where something else was expected.
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 10**18, 10**400, 0.5, 1e308, float("nan"), float("inf"),
    "", "x", "/", "a/b", "..", ":0", "^x", "\ud800", "\x1b[2J", "\u202e", "<script>",
    "=1+1", "x" * 10_000,
    [], [[]], ["x", 0], ["x", 10**30], {}, {"$ref": ["x", 0]}, {"$ref": []}, {"$python": 3},
    {"$float": "1e5"}, {"$slice": [1]}, {"$items": [[1, 2]]}, {"$what": 1},
)  # fmt: skip


def _nested(levels: int, make: Callable[[Any], Any]) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = make(found)
    return found


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key of it; not by recursion, the data may be deep."""
    left = [data]
    while left:
        owner = left.pop()
        for key in list(owner) if isinstance(owner, dict) else range(len(owner)):
            yield owner, key
            if isinstance(owner[key], (dict, list)):
                left.append(owner[key])


def _mutate(data: Any, draw: random.Random) -> None:
    """Changes one thing in place."""
    places = list(_places(data))
    owner, key = draw.choice(places)
    kind = draw.randrange(8)
    if kind <= 2:
        owner[key] = copy.deepcopy(draw.choice(ODD))
    elif kind == 3:
        del owner[key]
    elif kind == 4:
        other, name = draw.choice(places)
        owner[key] = json.loads(json.dumps(other[name]))
    elif kind == 5 and isinstance(owner, list):
        owner.insert(key, owner[draw.randrange(len(owner))])
    elif kind == 6 and isinstance(owner, list):
        draw.shuffle(owner)
    elif kind == 7:
        levels = draw.choice((10, 50, 100))
        make = draw.choice((lambda x: [x], lambda x: {"$items": [["k", x]]}, lambda x: {"a": x}))
        owner[key] = _nested(levels, make)
    else:
        owner["extra" if isinstance(owner, dict) else key] = copy.deepcopy(draw.choice(ODD))


def _mutated(text: str, draw: random.Random) -> bytes:
    if draw.random() < 0.1:  # the text itself
        data = bytearray(text.encode())
        for _ in range(draw.randint(1, 5)):
            start = draw.randrange(len(data))
            data[start : start + draw.randint(0, 40)] = draw.randbytes(draw.randint(0, 8))
        return bytes(data)
    parsed = json.loads(text)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        _mutate(parsed, draw)
    try:
        text = json.dumps(parsed)
    except RecursionError:  # several changes inside each other
        return b"[" * 100_000
    if draw.random() < 0.05:  # deeper than what can be parsed
        text = text.replace("null", "[" * 100_000 + "]" * 100_000, 1)
    return text.encode()


def _commands(folder: Path, sound: Path) -> list[list[str]]:
    file = str(folder / "graph.json")
    formats = ["text", "csv", "markdown", "mermaid", "html"]
    return [
        ["show", str(folder), "--text"],
        *(["export", file, "--format", kind, "--out", "-"] for kind in formats),
        ["diff", file, str(sound)],
        ["diff", str(sound), file],
    ]


def _outcome(command: list[str]) -> str:
    """What is wrong with how a command ends; ``""``: nothing."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    start = time.monotonic()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(command)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        spent_s = time.monotonic() - start
    if spent_s > LONGEST_S:
        return f"{spent_s:.0f} s"
    lines = err.getvalue().splitlines()
    if status == 2 and len(lines) != 1:
        return f"{len(lines)} lines"
    return "" if status in (0, 1, 2) else f"status {status}"


@pytest.mark.slow
def test_no_file_gives_a_traceback_and_none_takes_long(tmp_path: Path) -> None:
    draw = random.Random(SEED)
    texts = [dumps(graph) for graph in (two_branches(), layers(3), graph_of("article_cnn"))]
    sound = tmp_path / "sound.json"
    sound.write_text(texts[0])
    folder = tmp_path / "changed"
    folder.mkdir()
    broken: dict[str, int] = {}
    for number in range(MUTATIONS):
        (folder / "graph.json").write_bytes(_mutated(texts[number % len(texts)], draw))
        commands = _commands(folder, sound)
        for command in (commands[0], *draw.sample(commands[1:], 2)):
            wrong = _outcome(command)
            if wrong:
                key = f"{command[0]} {command[3] if command[0] == 'export' else ''}: {wrong}"
                broken[key] = broken.get(key, 0) + 1
    assert not broken
