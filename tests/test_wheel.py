"""What somebody installs: the wheel has all that runs and nothing else; types that can be used."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import modelviz_callbacks

HOME = Path(__file__).parent.parent
PACKAGE = HOME / "modelviz_callbacks"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    builders = pytest.importorskip("hatchling.builders.wheel")
    folder = tmp_path_factory.mktemp("wheel")
    (built,) = builders.WheelBuilder(str(HOME)).build(directory=str(folder))
    return zipfile.ZipFile(built)


def test_the_wheel_has_every_module_and_asset_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    page = PACKAGE / "writers/page"  # what the assets are built from
    expected = {
        path.relative_to(HOME).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and page not in path.parents and "__pycache__" not in path.parts
    }
    assert inside == expected
    assert {
        f"modelviz_callbacks/writers/assets/page.{kind}" for kind in ("js", "css", "html")
    } < inside
    assert "modelviz_callbacks/py.typed" in inside


def test_the_wheel_says_its_version_its_extras_and_its_commands(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
    said = wheel.read(name).decode()
    assert f"Version: {modelviz_callbacks.__version__}\n" in said
    assert set(re.findall(r"Provides-Extra: (\w+)", said)) == {
        *("lightning", "mlflow", "onnx", "tensorboard", "rich", "all"),
    }
    points = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "modelviz = modelviz_callbacks.cli:main" in points


@pytest.mark.process
@pytest.mark.slow
def test_pyright_sees_types_in_a_users_script() -> None:
    pytest.importorskip("pyright")
    # mypy looks at the same file in `make check`. Its ignores are comments of pyright's, too.
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    command.append("tests/users_script.py")
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
    assert "0 errors" in done.stdout, done.stdout + done.stderr
