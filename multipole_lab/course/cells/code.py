"""A submission's code: the cells as they are run, and which of their statements a question rests on."""

from __future__ import annotations

from dataclasses import dataclass, field

from multipole_lab.course.cells.ipython import as_python
from multipole_lab.course.cells.statements import Statement, behind, statements
from multipole_lab.course.grading.notebook import Cell, Item, Master
from multipole_lab.course.questions import forbidden


@dataclass(frozen=True)
class Code:
    """What a student has written.

    Attributes
    ----------
    sources : (label, Python) of every cell, in their order, without those that the master gave.
    statements : theirs.
    needed : labels of the cells that any question's cell rests on.
    """

    sources: list[tuple[str, str]]
    statements: list[Statement]
    needed: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, master: Master, cells: list[Cell]) -> Code:
        """The code of a submission to an assignment."""
        given = master.own_cells
        labels: dict[str, int] = {}
        sources = []
        students = (cell for cell in cells if cell.kind == "code" and cell.name not in given)
        for number, cell in enumerate(students, 1):
            label = cell.name[:60] or f"extra cell {number}"
            labels[label] = labels.get(label, 0) + 1
            if labels[label] > 1:
                label = f"{label} ({labels[label]})"
            sources.append((label, as_python(cell.source)))
        found = statements(sources)
        names = {name for item in master.items for name in item.functions}
        needed, more = {item.cell for item in master.items}, {""}
        while more - needed:  # a cell runs as a whole, so that all of it has to find what it uses
            needed |= more
            names |= {name for one in found if one.label in needed for name in one.uses}
            more = {one.label for one in behind(found, names)}
        return cls(sources, found, frozenset(needed))

    def not_allowed(self, item: Item) -> str:
        """What a question forbids and its function, or anything behind it, is written with; or an empty string."""
        for one in behind(self.statements, item.functions):
            if name := forbidden.found_in(one.source, item.forbidden):
                return f"the cell {one.label} uses {name!r}, which this question does not allow"
        return ""

    def uses(self, item: Item) -> set[str]:
        """The names that the functions of a question look up, and those behind them."""
        return set().union(*(one.uses for one in behind(self.statements, item.functions)))
