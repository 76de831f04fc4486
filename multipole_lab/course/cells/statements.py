"""What the cells of a submission bind and use: which of a student's statements a question rests on."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# What may bind any name, so that a statement which uses it counts for every question.
_BINDS_ANYTHING = {"exec", "eval", "globals", "setattr", "__builtins__", "builtins", "__main__"}


@dataclass(frozen=True)
class Statement:
    """One statement at the top of a cell.

    Attributes
    ----------
    label : of its cell.
    source : its text, without comments. Its syntax tree takes hundreds of bytes a character and is not kept.
    binds, uses : names of the notebook that it gives a value or a part (``torch.exp = ...``), and that it looks up.
    """

    label: str
    source: str
    binds: frozenset[str]
    uses: frozenset[str]


def statements(sources: Iterable[tuple[str, str]]) -> list[Statement]:
    """Every statement of some (label, source); a cell that does not parse has none, for it cannot run either."""
    found = []
    for label, source in sources:
        try:
            tree = ast.parse(source)
            found += [Statement(label, *_read(one)) for stated in tree.body for one in _apart(stated)]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return found


def behind(all_of_them: list[Statement], names: Iterable[str]) -> list[Statement]:
    """The statements that give some functions their values, those of all that these use, and so on."""
    wanted, waiting = set(), set(names) | _BINDS_ANYTHING
    chosen: set[int] = set()
    while waiting:
        wanted |= waiting
        new = {
            i
            for i, one in enumerate(all_of_them)
            if i not in chosen and (one.binds & wanted or one.uses & _BINDS_ANYTHING)
        }
        chosen |= new
        waiting = set().union(*(all_of_them[i].uses for i in new)) - wanted
    return [all_of_them[i] for i in sorted(chosen)]


def _apart(tree: ast.stmt) -> list[ast.stmt]:
    """``import os, torch`` as two statements."""
    if isinstance(tree, ast.Import):
        return [ast.Import([alias]) for alias in tree.names]
    if isinstance(tree, ast.ImportFrom):
        return [ast.ImportFrom(tree.module, [alias], tree.level) for alias in tree.names]
    return [tree]


def _read(tree: ast.stmt) -> tuple[str, frozenset[str], frozenset[str]]:
    source, binds, uses = ast.unparse(tree), set(), set()
    for node in ast.walk(tree):  # parts of things: torch.exp = ..., table["a"] = ...
        root = node
        while isinstance(root, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            root = root.value
        if root is not node and isinstance(root, ast.Name):
            binds.add(root.id)
    try:
        top = symtable.symtable(source, "cell", "exec")
    except SyntaxError:  # await at the top
        every = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        stored = {node.id for node in every if isinstance(node.ctx, ast.Store)}
        return source, frozenset(binds | stored), frozenset(node.id for node in every)
    for table in _tables(top):
        for symbol in table.get_symbols():
            outside = table is top or symbol.is_global()
            if outside and (symbol.is_assigned() or symbol.is_imported()):
                binds.add(symbol.get_name())
            if outside and symbol.is_referenced():
                uses.add(symbol.get_name())
    return source, frozenset(binds), frozenset(uses)


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)
