"""An example as its author had it before the line was added: our library is not even imported."""

from __future__ import annotations

import ast
from pathlib import Path


def without_us(source: str) -> str:
    """The same program without anything that is imported from our library."""
    taken_out = _TakesOut()
    tree = taken_out.visit(ast.parse(source))
    assert taken_out.names, "nothing of ours is imported there"
    return ast.unparse(ast.fix_missing_locations(tree))


def copy_without_us(examples: Path, folder: Path) -> None:
    """Copies scripts, those that use our library without it."""
    folder.mkdir()
    for path in examples.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        made = without_us(source) if "\nfrom modelviz_callbacks" in source else source
        assert "modelviz_callbacks" not in made, path
        (folder / path.name).write_text(made, encoding="utf-8")


class _TakesOut(ast.NodeTransformer):
    """Takes out imports of ours, and calls of what they give wherever these may stand."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def _is_ours(self, node: ast.AST | None) -> bool:
        while isinstance(node, (ast.Call, ast.Attribute)):
            node = node.func if isinstance(node, ast.Call) else node.value
        return isinstance(node, ast.Name) and node.id in self.names

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        if (node.module or "").partition(".")[0] != "modelviz_callbacks":
            return node
        self.names.update(alias.asname or alias.name for alias in node.names)
        return None

    def visit_List(self, node: ast.List) -> ast.AST:
        node.elts = [one for one in node.elts if not self._is_ours(one)]
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node.keywords = [one for one in node.keywords if not self._is_ours(one.value)]
        return self.generic_visit(node)

    def visit_With(self, node: ast.With) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        node.items = [one for one in node.items if not self._is_ours(one.context_expr)]
        return node if node.items else node.body

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if self._is_ours(node.value) else self.generic_visit(node)
