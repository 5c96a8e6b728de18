"""What README and docs name is there: files, options, functions, commands."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import modelviz_callbacks
from docs.gallery.grades import GRADES, with_grades
from docs.gallery.table import ENTRIES, with_gallery
from modelviz_callbacks import GraphHook, GraphLogger, Trace
from modelviz_callbacks.cli import main
from modelviz_callbacks.options import FORMATS, Options
from modelviz_callbacks.report import ModelvizWarning
from tests.docs_code import blocks, run
from tests.messages import stems

HOME = Path(__file__).parent.parent
FOR_CONTRIBUTORS = [HOME / "CONTRIBUTING.md", HOME / "RELEASING.md", HOME / "docs/architecture.md"]
PAGES = [
    HOME / "README.md",
    HOME / "CHANGELOG.md",
    *FOR_CONTRIBUTORS[:2],
    *sorted((HOME / "docs").rglob("*.md")),
]
README = PAGES[0].read_text(encoding="utf-8")
OPTIONS_PAGE = (HOME / "docs/options.md").read_text(encoding="utf-8")
# What takes the options -> what it takes beside them.
TAKE_OPTIONS = {
    GraphLogger.__name__: {"stage"},
    GraphHook.__name__: {"method", "accelerator", "loggers", "loss"},
}
OPTIONS = {field.name: field.default for field in dataclasses.fields(Options)}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def calls(page: Path) -> list[ast.Call]:
    """The calls in a page's Python."""
    trees = [ast.parse(code) for code in blocks(page, "python")]
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]


def option_rows() -> dict[str, str]:
    """The table of options: the default by the name."""
    rows = {}
    table = OPTIONS_PAGE.partition("| option | default | meaning |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        names, default = (cell.strip() for cell in line.split("|")[1:3])
        rows |= dict.fromkeys(re.findall(r"`(\w+)`", names), default.strip("`"))
    return rows


@each_page
def test_every_link_and_picture_leads_to_a_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)|\b(?:src|href)=\"([^\"]+)\"", text)
    local = [unquote(a or b).partition("#")[0] for a, b in targets if "://" not in a + b]
    made = re.compile(r"interactive/\w+\.html")  # by docs/site_pages.py
    local = [target for target in local if not made.fullmatch(target)]
    missing = [target for target in local if not (page.parent / target).is_file()]
    assert missing == []


@each_page
def test_nothing_stands_twice_on_a_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    parts = [part.strip() for part in re.split(r"\n\s*\n", text) if len(part) > 80]
    assert [part[:60] for part in parts if parts.count(part) > 1] == []
    headings = re.findall(r"^#+ (.+)", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    repeated = {one for one in headings if headings.count(one) > 1}
    assert page.stem == "CHANGELOG" or repeated == set()


def test_each_page_tells_the_same_sizes() -> None:
    sizes = (HOME / "docs/platforms.md").read_text(encoding="utf-8")
    quick_start = (HOME / "docs/quick-start.md").read_text(encoding="utf-8")
    (core,) = re.findall(r"^\| core \| (\d+) \|", sizes, re.M)
    (tensorboard,) = re.findall(r"^\| `\[tensorboard\]` beyond the core \| (\d+) \|", sizes, re.M)
    assert f"brings {core} MB beyond torch" in README
    assert f" {tensorboard} MB " in quick_start
    parts = [int(size) for size in re.findall(r"^\| of it .* \| (\d+) \|", sizes, re.M)]
    assert abs(sum(parts) - int(core)) < len(parts)


def test_every_picture_in_the_docs_is_shown_on_a_page() -> None:
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    pictures = [path.name for path in (HOME / "docs/images").iterdir()]
    assert len(pictures) > 10
    assert [name for name in pictures if f"images/{name}" not in shown] == []


def test_the_gallery_of_pictures_is_that_of_its_table() -> None:
    page = (HOME / "docs/pictures.md").read_text(encoding="utf-8")
    assert len(ENTRIES) >= 30
    assert page == with_gallery(page)
    assert [entry.file for entry in ENTRIES if page.count(f"images/{entry.file}.svg") != 1] == []


def test_the_grades_are_those_of_their_table_with_a_reason_for_each_that_is_not_the_best() -> None:
    page = (HOME / "docs/grades.md").read_text(encoding="utf-8")
    assert page == with_grades(page)
    assert len(GRADES) == 21
    for file, found in GRADES.items():
        assert all(4 <= grade <= 5 for grade in found[:4]), file
        assert (min(found[:4]) == 5) == (not found.missing), file
        for viewer in ("tensorboard", "netron"):
            assert (HOME / f"docs/images/gallery/{viewer}_{file}.png").is_file()


def test_the_table_has_every_option_with_its_default() -> None:
    stated = option_rows()
    assert list(stated) == list(OPTIONS)
    for name, default in OPTIONS.items():
        said = "all" if default == FORMATS else repr(default).replace("'", '"')
        assert stated[name] == said, name


@each_page
def test_the_python_names_options_and_functions_that_exist(page: Path) -> None:
    for call in calls(page):
        called = ast.unparse(call.func)
        if called in TAKE_OPTIONS:
            given = {keyword.arg for keyword in call.keywords}
            assert given <= {*OPTIONS, *TAKE_OPTIONS[called]}
        elif called.startswith("t.") and called.count(".") == 1:
            assert hasattr(Trace, called.removeprefix("t.")), called
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module == "modelviz_callbacks":
                assert {name.name for name in node.names} <= set(modelviz_callbacks.__all__)


@each_page
def test_what_the_text_sets_with_an_equals_sign_is_an_option(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    named = re.findall(r"`([a-z]\w*)=[^`]*`", text)
    assert set(named) <= set(OPTIONS) | TAKE_OPTIONS[GraphHook.__name__]


@each_page
def test_the_shell_names_commands_and_options_that_exist(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text(encoding="utf-8")
    lines = "\n".join(blocks(page, "sh")).splitlines() + re.findall(r"`([^`\n]+)`", text)
    for line in lines:
        words = line.partition(" #")[0].split()
        if len(words) < 2 or words[0] != "modelviz":
            continue
        with pytest.raises(SystemExit) as ended:
            main([words[1], "--help"])
        assert ended.value.code == 0, line
        known = capsys.readouterr().out
        for option in (word for word in words[2:] if word.startswith("--")):
            assert re.search(rf"{option}\b", known), line


@pytest.mark.parametrize("page", FOR_CONTRIBUTORS, ids=lambda page: page.name)
def test_every_file_and_folder_that_contributors_are_sent_to_is_there(page: Path) -> None:
    named = re.findall(r"(?<![\w/.-])[\w./-]+", page.read_text(encoding="utf-8"))
    places = [word.rstrip(".") for word in named if "//" not in word]
    paths = {
        place
        for place in places
        if re.search(r"\.(py|toml|yaml)$", place)
        or re.match(r"(modelviz_callbacks|tests|docs|benchmarks|examples)/", place)
    }
    assert paths
    assert [path for path in sorted(paths) if not _is_there(path)] == []


def _is_there(path: str) -> bool:
    """Whether there is such a path, from the top, or a module of the package that ends so."""
    package = HOME / "modelviz_callbacks"
    return (HOME / path).exists() or any(package.rglob(path.rstrip("/")))


@pytest.mark.parametrize("page", FOR_CONTRIBUTORS, ids=lambda page: page.name)
def test_every_name_of_the_code_that_contributors_are_told_of_is_in_it(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    named = set(re.findall(r"`([A-Za-z_]\w+(?:\.\w+)*)(?:\(\))?`", text))
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("modelviz_callbacks", "tests", "benchmarks", "examples")
        for path in (HOME / folder).rglob("*.py")
        if path != Path(__file__)
    )
    words = set(re.findall(r"\w+", code)) | {"conv2d"}
    unknown = {name for name in named if not name.endswith((".py", ".md", ".toml"))}
    unknown = {name for name in unknown if name.rpartition(".")[2] not in words}
    assert unknown == set()


def test_the_makefile_has_the_targets_that_the_pages_name() -> None:
    makefile = (HOME / "Makefile").read_text(encoding="utf-8")
    texts = [README, *(page.read_text(encoding="utf-8") for page in FOR_CONTRIBUTORS)]
    named = [name for text in texts for name in re.findall(r"(?:^|`)make ([\w-]+)", text, re.M)]
    assert {"demo", "test", "test-fast", "check"} <= set(named)
    assert [name for name in named if f"\n{name}:" not in makefile] == []


# Ultralytics needs torchvision, of which there is no build beside the torch of these tests.
TRIED_BY_HAND = {"ultralytics"}
WITH_CODE = [
    page
    for page in PAGES
    if page.stem not in {"CONTRIBUTING", *TRIED_BY_HAND} and blocks(page, "python")
]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.chdir(tmp_path)
    # No worker can be started, so the files are made here, which is quicker.
    monkeypatch.setattr(sys, "executable", "")
    run(page)
    assert [str(said.message) for said in recwarn if said.category is ModelvizWarning] == []
    if re.search(r"Graph(Hook|Logger|Callback|Handler)\(", "".join(blocks(page, "python"))):
        assert [*tmp_path.rglob("graph.json")]


def test_every_message_of_the_package_stands_on_the_page_on_troubleshooting() -> None:
    text = (HOME / "docs/troubleshooting.md").read_text(encoding="utf-8")
    told = " ".join(text.replace("`", "").split())
    said = stems()
    assert len(said) > 100
    assert {stem: where for stem, where in said.items() if stem.replace("`", "") not in told} == {}


TRAINERS = {
    "lightning": "lightning_cnn",
    "transformers": "transformers_trainer",
    "accelerate": "accelerate_loop",
    "fabric": "fabric_loop",
    "ignite": "ignite_trainer",
    "skorch": "skorch_classifier",
    "fastai": "fastai_learner",
    "mmengine": "mmengine_runner",
    "stable-baselines3": "stable_baselines3_ppo",
    "plain-loop": "plain_loop",
}


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_has_a_row_with_its_line_an_example_and_a_page(name: str) -> None:
    (row,) = [line for line in README.splitlines() if f"(examples/{TRAINERS[name]}.py)" in line]
    line = re.sub(r"\.\.\., ?", "", re.findall(r"`([^`]+)`", row)[0]).rstrip(":")
    page = (HOME / f"docs/trainers/{name}.md").read_text(encoding="utf-8")
    (called,) = set(re.findall(r"Graph(?:Logger|Callback|Handler|Hook)", line))
    assert f"{called}(" in "".join(blocks(HOME / f"docs/trainers/{name}.md", "python"))
    assert f"examples/{TRAINERS[name]}.py" in page


def test_the_table_of_trainers_has_every_integration() -> None:
    files = {path.stem for path in (HOME / "modelviz_callbacks/integrations").glob("[a-z]*.py")}
    assert files <= {name.replace("-", "_") for name in TRAINERS} | TRIED_BY_HAND
    pages = {path.stem for path in (HOME / "docs/trainers").glob("*.md")}
    assert pages == {*TRAINERS, *TRIED_BY_HAND, "trace"}


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = (HOME / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    named = set(re.findall(r": ([\w/-]+\.md)$", navigation, re.M))
    made = {"index.md", "changelog.md", "contributing.md"}
    there = {path.relative_to(HOME / "docs").as_posix() for path in (HOME / "docs").rglob("*.md")}
    assert named == there | made


def test_the_code_of_the_readme_is_not_empty() -> None:
    assert {ast.unparse(call.func) for call in calls(PAGES[0])} >= {*TAKE_OPTIONS, "trace"}
    assert len(option_rows()) == len(OPTIONS)
