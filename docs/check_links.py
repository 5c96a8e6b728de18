"""Every link and picture of the built site leads to a file of it, and every anchor to a place.

``python docs/check_links.py [site]``; the exit status is 1 if one does not. mkdocs itself looks at
links that are written in Markdown only. Nothing is asked of the network.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """Where a page leads, and the places it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what a tag leads to and what it is called."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.targets.append(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def broken(site: Path) -> list[str]:
    """The links that lead nowhere, each with its page.

    Args:
        site: The folder that mkdocs has built.
    """
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    found = []
    for path, page in sorted(pages.items()):
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = place / "index.html" if place.is_dir() else place
            anchor = unquote(parts.fragment)
            lost = bool(anchor) and place in pages and anchor not in pages[place].places
            if not place.exists() or (lost and "__" not in anchor):
                found.append(f"{path.relative_to(site)}: {target}")
    return found


def main() -> int:
    """Prints what is broken."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "site").resolve()
    found = broken(site)
    print("\n".join(found) or f"Every link in {site.name}/ leads somewhere.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
