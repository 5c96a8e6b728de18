"""Every sentence that the package can say, collected from its code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import modelviz_callbacks
from modelviz_callbacks import errors

PACKAGE = Path(modelviz_callbacks.__file__).parent
# What makes a message of its arguments: the library's errors, and what puts a line into a report.
_ERRORS = {name for name in vars(errors) if name.endswith("Error")} | {"UploadError"}
_SAYING = {"add_remark", "remark", "refuse", "warn", "Note", "_told", "say", "append"}
# Letters of the shortest text that a person would look for.
_SHORTEST = 8


def stems() -> dict[str, str]:
    """The longest fixed part of each message -> where it is said.

    What is put together from parts elsewhere (a reason, an advice) is told by its own part.
    """
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = _constants(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _says(node):
                for argument in node.args:
                    for text in _texts(argument, constants):
                        where = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                        found.setdefault(text, where)
    return found


def _says(call: ast.Call) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    if name == "append":  # of a list of remarks, not of any list
        return ast.unparse(call.func).endswith("remarks.append")
    return name in _ERRORS or name in _SAYING


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """The module's own texts, by their names."""
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
    return found


def _texts(argument: ast.expr, constants: dict[str, ast.expr]) -> Iterator[str]:
    """The longest fixed part of a text with values in it; nothing if it is no sentence."""
    if isinstance(argument, ast.Call) and isinstance(argument.func, ast.Attribute):
        argument = argument.func.value  # "...".format(...), "...".strip()
    if isinstance(argument, ast.Name):
        argument = constants.get(argument.id, argument)
    if isinstance(argument, ast.JoinedStr):
        parts = [p.value for p in argument.values if isinstance(p, ast.Constant)]
    elif isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        parts = argument.value.replace("}", "{").split("{")[::2]
    else:
        return
    longest = max((" ".join(str(part).split()) for part in parts), key=len, default="")
    if len(longest) >= _SHORTEST and " " in longest:
        yield longest
