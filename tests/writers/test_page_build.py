"""The page's script is the build of its sources."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

import modelviz_callbacks.writers
from tests.waiting import PATIENCE_S

WRITERS = Path(modelviz_callbacks.writers.__file__).parent
HOME = WRITERS / "page"
ASSETS = WRITERS / "assets"
BUILT = ("page.js", "rows.js")


def hash_of_sources(home: Path) -> str:
    """What ``build.mjs`` writes into the first line of what it builds."""
    found = sha256()
    sources = sorted((home / "src").glob("*.js"), key=lambda path: path.name)
    names = ["build.mjs", "package.json", "package-lock.json"]
    for path in (*(home / name for name in names), *sources):
        found.update(f"{path.relative_to(home).as_posix()}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", BUILT)
def test_the_script_was_built_from_the_sources_that_are_here(name: str) -> None:
    first = (ASSETS / name).read_text("utf-8").partition("\n")[0]
    noted = re.search(r"sha256 ([0-9a-f]{64})", first)
    assert noted, "run: npm ci && npm run build, in modelviz_callbacks/writers/page"
    assert noted[1] == hash_of_sources(HOME), "the sources changed: npm run build"


def test_another_source_has_another_hash(tmp_path: Path) -> None:
    skip = shutil.ignore_patterns("node_modules")
    shutil.copytree(HOME, tmp_path / "page", ignore=skip)
    assert hash_of_sources(tmp_path / "page") == hash_of_sources(HOME)
    with (tmp_path / "page" / "src" / "main.js").open("a") as file:
        file.write("\n")
    assert hash_of_sources(tmp_path / "page") != hash_of_sources(HOME)


@pytest.mark.slow
@pytest.mark.skipif(
    not (HOME / "node_modules").is_dir() and "CI" not in os.environ, reason="npm ci was not run"
)
def test_building_again_makes_the_same_script_and_its_types_fit(tmp_path: Path) -> None:
    page = tmp_path / "page"
    shutil.copytree(HOME, page, symlinks=True)
    (tmp_path / "assets").mkdir()
    steps = [["run", "build"], ["run", "check"]]
    if not (page / "node_modules").is_dir():
        steps.insert(0, ["ci", "--no-audit", "--no-fund"])
    for step in steps:
        subprocess.run(["npm", *step], cwd=page, check=True, timeout=PATIENCE_S)
    for name in BUILT:
        assert (tmp_path / "assets" / name).read_bytes() == (ASSETS / name).read_bytes()


def test_the_licences_of_the_bundled_libraries_are_in_the_script() -> None:
    for name in BUILT:
        text = (ASSETS / name).read_text("utf-8")
        assert "Permission is hereby granted" in text
        assert "\n@dagrejs/dagre " in text
    text = (ASSETS / "page.js").read_text("utf-8")
    for library in ("@dagrejs/dagre", "@dagrejs/graphlib", "d3-zoom", "d3-selection"):
        assert f"\n{library} " in text
    assert "Mike Bostock" in text


def test_no_source_is_too_long_to_read() -> None:
    long = {
        path.name: count
        for path in (HOME / "src").glob("*.js")
        if (count := path.read_text("utf-8").count("\n")) > 640
    }
    assert long == {}
