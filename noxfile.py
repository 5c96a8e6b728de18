"""The declared bounds of the dependencies, tried: ``nox --list`` shows the cells.

    nox --session "tests-3.11(lowest)"    each dependency at the lowest version that is declared
    nox --session "tests-3.12(newest)"    the newest of everything
    nox --session wheel                   the quick start, from the built wheel, with each extra

TORCH in the environment names another torch than the bound: ``TORCH=2.13.0 nox ...``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import nox
from packaging.requirements import Requirement

HOME = Path(__file__).parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
# As `make test-fast` chooses them.
FAST = re.findall(r'\(PYTEST\) -m "([^"]+)"', (HOME / "Makefile").read_text(encoding="utf-8"))[0]
# What the fast tests use beside the package; not all of the group "test", which is the zoo's.
TOOLS = [
    "pytest>=8",
    "pytest-randomly>=3.15",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "einops>=0.8",
    "hatchling",
    "playwright>=1.50",
    "scikit-learn>=1.5",
    "accelerate",
    "clearml",
    "peft",
    "pytorch-ignite",
    "skorch",
    "stable-baselines3",
    "tensorboardX",
    "tensordict",
    "torch_geometric",
    "torchdiffeq",
    "transformers>=5",
    "wandb",
    # What fastai and MMEngine need of what they name, see pyproject.toml.
    "fastdownload",
    "fastprogress>=1.0",
    "fasttransform",
    "addict",
    "opencv-python-headless",
    "termcolor",
    "yapf",
]
ALONE = ["fastai", "mmengine"]  # without what they name
EXTRAS = ["", "lightning", "mlflow", "onnx", "tensorboard", "rich", "all"]


def bounds(python: str) -> dict[str, str]:
    """The lowest version that pyproject.toml declares of each requirement, for a Python."""
    text = (HOME / "pyproject.toml").read_text(encoding="utf-8")
    declared = text.partition("\ndependencies = [")[2].partition("[project.scripts]")[0]
    found = map(Requirement, re.findall(r'"([\w-]+>=[^"]+)"', declared))
    return {
        one.name: next(iter(one.specifier)).version
        for one in found
        if one.marker is None or one.marker.evaluate({"python_version": python})
    }


@nox.session(python=PYTHONS)
@nox.parametrize("which", ["lowest", "newest"], ids=["lowest", "newest"])
def tests(session: nox.Session, which: str) -> None:
    """The fast tests."""
    lowest = bounds(session.python)
    if os.environ.get("TORCH"):
        lowest["torch"] = os.environ["TORCH"]
    pins = [f"{name}=={version}" for name, version in lowest.items()]
    # Other libraries of the tests need newer ones of these two, which the library itself does not.
    pins = [pin for pin in pins if not pin.startswith(("rich==", "typing_extensions=="))]
    # mlflow 3.5 was written for SQLAlchemy 2.0; only its own store needs it.
    chosen = [*pins, "sqlalchemy<2.1"] if which == "lowest" else ["torch"]
    if which == "newest" and os.environ.get("TORCH"):
        chosen = [f"torch=={lowest['torch']}"]
    session.install(*chosen, *TOOLS, "mlflow" if which == "newest" else pin_of("mlflow", lowest))
    session.install("--no-deps", *ALONE, "--editable", ".")
    session.install(*chosen, ".[all]")
    session.run("python", "-m", "pytest", "-m", FAST, *session.posargs)


def pin_of(name: str, lowest: dict[str, str]) -> str:
    """A dependency at its bound."""
    return f"{name}=={lowest[name]}"


@nox.session(python=PYTHONS)
@nox.parametrize("extra", EXTRAS, ids=[extra or "core" for extra in EXTRAS])
def wheel(session: nox.Session, extra: str) -> None:
    """The quick start as it is printed, from the wheel, in an empty folder."""
    session.install("build")
    folder = session.create_tmp()
    session.run("python", "-m", "build", "--wheel", "--outdir", folder, str(HOME))
    (built,) = sorted(Path(folder).glob("*.whl"))[-1:]
    torch = os.environ.get("TORCH")
    session.install(f"torch=={torch}" if torch else "torch")
    session.install(f"{built}[{extra}]" if extra else str(built))
    page = (HOME / "docs/quick-start.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.M))
    script = Path(folder) / "quick_start.py"
    script.write_text(code, encoding="utf-8")
    session.chdir(folder)
    session.run("python", script.name, env={"PYTHONPATH": ""})
    session.run("modelviz", "show", "model_graph/Sequential", "--text")
    session.run("modelviz", "doctor")
