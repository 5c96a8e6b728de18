"""Names from a stranger's model are text in every format, and nothing else."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from markdown_it import MarkdownIt
from torch import nn

from modelviz_callbacks.artifacts.tracking import _section
from modelviz_callbacks.graph.model import ModelGraph, Note
from modelviz_callbacks.writers.formats import render
from tests.networks import recorded

SCRIPTS = """
<script>alert(1)</script>
</script><script>alert(1)</script>
<img src=x onerror=alert(1)>
"><svg onload=alert(1)>
' onmouseover='alert(1)
" onmouseover="alert(1)
<svg/onload=alert(1)>
<iframe src=javascript:alert(1)>
</title><script>alert(1)</script>
</style><script>alert(1)</script>
</text><script>alert(1)</script>
]]><script>alert(1)</script>
<![CDATA[<script>alert(1)</script>]]>
<!--
-->
--!><script>alert(1)</script>
<?xml version="1·0"?>
<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>
&e;
&lt;script&gt;
&#60;script&#62;
&amp;
&
<
>
<a href="javascript:alert(1)">x</a>
<base href=//evil>
<meta http-equiv=refresh content=0>
<style>*{display:none}</style>
{{constructor}}
${alert(1)}
`${alert(1)}`
\\u003cscript\\u003e
\\x3cscript\\x3e
@@DATA@@
@@STYLE@@
javascript:alert(1)
__proto__
constructor
toString
hasOwnProperty
[x](javascript:alert(1))
![x](https://evil/a)
[x]: https://evil
<https://evil>
https://evil
**bold**
_under_
# heading
- item
1) item
> quote
| cell | cell |
|---|
```
~~~
`code`
***
$x$
end
subgraph x
click a "https://evil"
A-->B
a["b"]
:::x
%%{init: {"securityLevel": "loose"}}%%
;
=1+1
=HYPERLINK("https://evil","x")
+1+1
-1+1
@SUM(1)
|calc
%00
../../etc/passwd
/etc/passwd
C:\\evil
\\\\host\\share
~root
$(reboot)
`reboot`
; reboot
%s%n
"""
CONTROLS = (
    *("\x1b[31mred", "\x1b]0;title\x07", "\x1b]8;;https://evil\x1b\\x", "\x9b31m", "\x07"),
    *("\x08\x08", "a\nb", "a\r\nb", "a\rb", "a\tb", "\n=1+1", "\t=1+1", "\r=1+1", " =1+1"),
    *("\n```\n<b>", "\n---\n", "\x7f", "\u202eevil", "\u2028x", "\u2029x", "\u0085x"),
    *("\ufeffx", "\u200bx", "\x0bx", "\x0cx", "\x00x"),
)
NAMES = (*(line for line in SCRIPTS.splitlines() if line), *CONTROLS)


def graph_with(name: str) -> ModelGraph:
    """A graph in which everything that may be is called so."""
    model = nn.Sequential()
    # No module's name has a dot, no class's a zero.
    kind = type(name.replace("\x00", "") or "x", (nn.Linear,), {})
    model.add_module(name.replace(".", "·"), kind(2, 2))
    graph = recorded(model, torch.zeros(1, 2))
    return replace(graph, name=name, class_name=name, notes=(Note("unused", "", name),))


HARMLESS = graph_with("harmless")


class Tags(HTMLParser):
    """The elements of a page, their handlers, and where they lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.bad: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        for name, value in attrs:
            leads = (value or "").strip().lower()
            is_link = name in ("href", "src", "action", "xlink:href")
            if name.startswith("on") or (is_link and not leads.startswith(("#", "data:", "get-"))):
                self.bad.append(f"{tag} {name}={value}")


def xml_faults(data: bytes) -> list[str]:
    root = ET.fromstring(data)
    faults = []
    for element in root.iter():
        tag = str(element.tag).rpartition("}")[2]
        if tag not in SVG_TAGS:
            faults.append(tag)
        for name, value in element.attrib.items():
            is_link = name.rpartition("}")[2] in ("href", "src")
            if name.startswith("on") or (is_link and not value.startswith("#")):
                faults.append(f"{name}={value}")
    return faults


SVG_TAGS = {
    str(one.tag).rpartition("}")[2] for one in ET.fromstring(render(HARMLESS, "svg")).iter()
}


def html_faults(data: bytes) -> list[str]:
    tags, expected = Tags(data.decode()), Tags(render(HARMLESS, "html").decode())
    faults = [*tags.bad]
    for tag in ("script", "style", "meta", "iframe", "img", "base", "a", "object"):
        if tags.elements.count(tag) != expected.elements.count(tag):
            faults.append(f"{tags.elements.count(tag)} {tag}")
    if b"Content-Security-Policy" not in data:
        faults.append("no policy")
    return faults


def as_html(text: str) -> Tags:
    """Markdown as a page, raw HTML allowed as an attacker would wish."""
    return Tags(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def markdown_faults(data: bytes) -> list[str]:
    text = data.decode()
    tags, expected = as_html(text), as_html(render(HARMLESS, "markdown").decode())
    faults = [*tags.bad]
    if sorted(tags.elements) != sorted(expected.elements):
        faults.append(f"other elements: {sorted(set(tags.elements) ^ set(expected.elements))}")
    return faults


def mermaid_faults(data: bytes) -> list[str]:
    lines = data.decode().splitlines()
    expected = render(HARMLESS, "mermaid").decode().splitlines()
    words = [line.split()[0] for line in lines if line.split()]
    faults = [word for word in words if word in ("click", "%%{init:", "href", "style", "linkStyle")]
    if len(lines) != len(expected):
        faults.append(f"{len(lines)} lines")
    return faults


def table_faults(data: bytes) -> list[str]:
    text = data.decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    faults = [f"row of {len(row)}" for row in rows if len(row) != len(rows[0])]
    for cell in (cell for row in rows for cell in row):
        if cell.lstrip().startswith(("=", "+", "-", "@")):
            faults.append(cell)
    return faults


def terminal_faults(data: bytes) -> list[str]:
    text = data.decode()
    return [repr(letter) for letter in text if is_control(letter) and letter not in "\n\t"]


def is_control(letter: str) -> bool:
    code = ord(letter)
    return code < 32 or 127 <= code < 160 or letter in "\u202e\u2028\u2029"


FAULTS: dict[str, Callable[[bytes], list[str]]] = {
    "svg": xml_faults,
    "html": html_faults,
    "markdown": markdown_faults,
    "mermaid": mermaid_faults,
    "csv": table_faults,
    "text": terminal_faults,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_name_is_nothing_but_text(kind: str) -> None:
    found = {}
    for name in NAMES:
        faults = FAULTS[kind](render(graph_with(name), kind))
        if faults:
            found[name] = faults
    assert found == {}
    assert len(NAMES) > 100


def test_a_name_is_nothing_but_text_in_the_description_of_a_run() -> None:
    expected = as_html(_section(HARMLESS, {}))
    found = {}
    for name in NAMES:
        tags = as_html(_section(graph_with(name), {}))
        if tags.bad or tags.elements != expected.elements:
            found[name] = (tags.bad, tags.elements)
    assert found == {}
