"""What ``nbgrader autograde`` calls: the library's grader in place of nbgrader's kernel, which shares it with tests.

So an nbgrader course has what `course grade` has: processes of their own, forbidden names, limits of memory and time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from multipole_lab import extras
from multipole_lab.course.export.one import grade_one, lines


def configure(config: object, masters: Path) -> None:
    """Make the steps of autograding ours; call it in the course's ``nbgrader_config.py`` with its ``c``.

    Parameters
    ----------
    config : nbgrader's configuration.
    masters : the folder of the course's masters.
    """
    config.Autograde.autograde_preprocessors = [
        grading(masters),
        *(f"nbgrader.preprocessors.{name}" for name in _AFTER),
    ]
    config.OverwriteCells.add_missing_cells = (
        True  # points stand in cells of tests, which a student may have deleted
    )


_AFTER = ("LimitOutput", "SaveAutoGrades", "AssignLatePenalties", "CheckCellMetadata")


def grading(masters: Path) -> Callable:
    """The step that grades: a function of a notebook and nbconvert's resources, as nbconvert wants it."""

    def grade(notebook: object, resources: dict) -> tuple[object, dict]:
        """Grade a submission; its points are outputs of the cells with tests, where nbgrader looks for them."""
        extras.require("grading for nbgrader", "course", "nbformat", "nbgrader")
        import nbformat

        where = resources["nbgrader"]
        with tempfile.TemporaryDirectory(prefix="multipole-lab-nbgrader-") as folder:
            path = Path(folder, f"{where['notebook']}.ipynb")
            path.write_text(nbformat.writes(notebook), encoding="utf-8")
            result = grade_one(path, where["notebook"], masters)
        items = {item["question"]: item for item in result["items"]}
        extra = {}
        for cell in notebook.cells:
            marked = cell.metadata.get("nbgrader", {})
            if cell.cell_type != "code":
                continue
            cell.outputs = []
            item = items.get(cell.metadata.get("multipole_lab", {}).get("question"))
            if marked.get("grade") and item:
                text = "\n".join(lines(item)) + "\n"
                cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text=text))
                if item["bonus"]:
                    extra[marked["grade_id"]] = item["earned"]
                else:
                    points = {"text/plain": repr(float(item["earned"]))}
                    cell.outputs.append(nbformat.v4.new_output("execute_result", data=points))
        _save_bonus(extra, where)
        return notebook, resources

    return grade


def _save_bonus(extra: dict[str, float], where: dict) -> None:
    """The bonus as nbgrader's extra credit, which counts in the points and not in their maximum."""
    from nbgrader.api import Gradebook

    with Gradebook(where["db_url"]) as gradebook:
        for cell, points in extra.items():
            names = (cell, where["notebook"], where["assignment"], where["student"])
            gradebook.find_grade(*names).extra_credit = points
        gradebook.db.commit()
