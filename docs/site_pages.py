"""What the documentation site has that is no file of docs/: the top folder's pages, and made ones.

mkdocs calls this while it builds (``hooks`` in mkdocs.yml). README.md, CHANGELOG.md and
CONTRIBUTING.md become pages, the examples and configurations that pages lead to become files
beside them, and the interactive pages are recorded anew from tiny models with random weights, so
that none of them is in the repository.
"""

from __future__ import annotations

import posixpath
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

# Files of the top folder -> the page that each becomes.
_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
# Files of the repository that pages lead to, as they are.
_PUBLISHED = ("examples/*.py", "configs/*.yaml", "RELEASING.md", "LICENSE", "SECURITY.md")
_LINK = re.compile(r"(\]\(|\b(?:src|href)=\")([^)\s\"]+)")

# The folder of a page made of nothing but a graph.
_INTERACTIVE = "interactive"
_MODELS = ("article_cnn", "resnet50", "unet", "gan", "bert")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds pages and files before anything is read."""
    for name, page in _PAGES.items():
        text = (HOME / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_from_the_top(text)))
    for pattern in _PUBLISHED:
        for path in sorted(HOME.glob(pattern)):
            place = _published_as(path.relative_to(HOME).as_posix())
            files.append(File.generated(config, place, content=path.read_bytes()))
    for name, page in _interactive_pages().items():
        files.append(File.generated(config, f"{_INTERACTIVE}/{name}.html", content=page))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links to files around docs/ into links to what the site has of them."""
    folder = posixpath.dirname(page.file.src_uri)

    def within(found: re.Match[str]) -> str:
        start, target = found.groups()
        if "://" in target or target.startswith("#"):
            return found[0]
        path, mark, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join("docs", folder, path))
        if place.startswith("docs/"):
            return found[0]
        return start + posixpath.relpath(_on_the_site(place), folder or ".") + mark + anchor

    return _LINK.sub(within, markdown)


def _from_the_top(text: str) -> str:
    """A page of the top folder, with links as from docs/."""

    def within(found: re.Match[str]) -> str:
        start, target = found.groups()
        if "://" in target or target.startswith("#"):
            return found[0]
        return start + _on_the_site(target)

    return _LINK.sub(within, text)


def _on_the_site(path: str) -> str:
    """Where the site has a file of the repository."""
    path, mark, anchor = path.partition("#")
    page = _PAGES.get(path) or path.removeprefix("docs/")
    return _published_as(page) + mark + anchor


def _published_as(path: str) -> str:
    """What a file is called that is no page: a Markdown file as text."""
    return f"{path}.txt" if path in ("RELEASING.md", "SECURITY.md", "LICENSE") else path


def _interactive_pages() -> dict[str, bytes]:
    """The page of each model, recorded now."""
    import torch

    from modelviz_callbacks import trace
    from tests.networks import NETWORKS

    pages = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in _MODELS:
            torch.manual_seed(0)
            model, given = NETWORKS[name]()
            pages[name] = trace(model, *given).save_html(Path(scratch) / "page.html").read_bytes()
    return pages
