from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from modelviz_callbacks.artifacts.directory import Directory
from modelviz_callbacks.errors import SinkError


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def in_a_process_of_its_own(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bytes_are_written_under_their_name_and_the_folders_are_made(tmp_path: Path) -> None:
    path = Directory(tmp_path / "log" / "model_graph").write("pictures/graph.svg", b"<svg/>")

    assert path == tmp_path / "log" / "model_graph" / "pictures" / "graph.svg"
    assert path.read_bytes() == b"<svg/>"
    assert everything_in(path.parent) == ["graph.svg"]


def test_a_function_writes_to_a_path_in_the_same_folder_with_the_same_extension(
    tmp_path: Path,
) -> None:
    seen: list[Path] = []

    def draw(path: Path) -> None:
        seen.append(path)
        path.write_text("drawn")

    final = Directory(tmp_path).write("graph.svg", draw)

    assert final.read_text() == "drawn"
    assert seen[0] != final
    assert (seen[0].parent, seen[0].suffix) == (tmp_path, ".svg")
    assert everything_in(tmp_path) == ["graph.svg"]


def test_a_file_has_the_permissions_that_an_ordinary_file_has(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")

    for data in (b"x", lambda path: path.write_bytes(b"x")):
        written = Directory(tmp_path).write("graph.txt", data)
        assert written.stat().st_mode == ordinary.stat().st_mode


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    folder = Directory(tmp_path)
    folder.write("graph.txt", b"a much longer text than the next one")
    folder.write("graph.txt", b"short")

    assert (tmp_path / "graph.txt").read_bytes() == b"short"


@pytest.mark.parametrize(
    "name",
    [
        *("", "/etc/graph", "../graph", "a/../../b", "a//b", ".", ".hidden", "a\\b", "c:graph"),
        *("a\nb", "a\0b", "a?b", "a#b", "a%2fb", "end.", " graph", "graph ", "a/", "\ud800"),
        "x" * 300,
    ],
)
def test_an_odd_name_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    with pytest.raises(SinkError, match=r"(?s)cannot store a file as .*(Give|Use) "):
        Directory(root).write(name, b"x")

    assert everything_in(tmp_path) == []


def test_what_a_function_raises_goes_on_and_the_old_file_stays(tmp_path: Path) -> None:
    folder = Directory(tmp_path)
    folder.write("graph.svg", b"old")

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        folder.write("graph.svg", fail)

    assert everything_in(tmp_path) == ["graph.svg"]
    assert (tmp_path / "graph.svg").read_bytes() == b"old"


def test_a_root_that_is_a_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_bytes(b"")

    with pytest.raises(SinkError, match=r"occupied.*pass another dirpath="):
        Directory(tmp_path / "occupied" / "model_graph").write("graph.txt", b"x")


def test_a_folder_with_the_name_of_the_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "graph.txt").mkdir()

    with pytest.raises(SinkError, match=r"graph\.txt: .*move it away"):
        Directory(tmp_path).write("graph.txt", b"x")

    assert everything_in(tmp_path) == ["graph.txt"]


@pytest.mark.process
def test_a_disk_that_takes_only_half_of_it_leaves_the_old_file_and_nothing_else(
    tmp_path: Path,
) -> None:
    # The kernel stops the write half-way, as it does on a full disk.
    script = """
        import resource, signal, sys
        from modelviz_callbacks.errors import SinkError
        from modelviz_callbacks.artifacts.directory import Directory
        folder = Directory(sys.argv[1])
        folder.write("graph.onnx", b"old")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        for data in (bytes(100_000), lambda path: path.write_bytes(bytes(100_000))):
            try:
                folder.write("graph.onnx", data)
            except SinkError as error:
                print(error)
    """
    said = in_a_process_of_its_own(script, tmp_path).splitlines()

    assert len(said) == 2
    assert all("graph.onnx" in line and "raise the limit" in line for line in said)
    assert everything_in(tmp_path) == ["graph.onnx"]
    assert (tmp_path / "graph.onnx").read_bytes() == b"old"


@pytest.mark.process
def test_an_unwritable_folder_says_what_to_do(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    script = """
        import os, sys
        from modelviz_callbacks.errors import SinkError
        from modelviz_callbacks.artifacts.directory import Directory
        if os.geteuid() == 0:  # root may write anywhere
            os.setuid(65534)
        try:
            Directory(sys.argv[1]).write("graph.txt", b"x")
        except SinkError as error:
            print(error)
    """
    assert "make the folder writable" in in_a_process_of_its_own(script, closed)


def test_several_writers_of_one_name_leave_one_whole_file(tmp_path: Path) -> None:
    folder = Directory(tmp_path)
    contents = [bytes([number]) * 200_000 for number in range(6)]
    seen: list[bytes] = []
    folder.write("graph.svg", contents[0])

    def write(content: bytes) -> None:
        for _ in range(5):
            folder.write("graph.svg", content)
            seen.append((tmp_path / "graph.svg").read_bytes())

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert len(seen) == 30
    assert set(seen) <= set(contents)
    assert everything_in(tmp_path) == ["graph.svg"]


@pytest.mark.process
def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from modelviz_callbacks.artifacts.directory import Directory
        folder = Directory(sys.argv[1])
        folder.write("graph.svg", b"old")
        def half(path):
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        folder.write("graph.svg", half)
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), os.fspath(tmp_path)], check=False
    )

    assert (tmp_path / "graph.svg").read_bytes() == b"old"
