"""What tests of grading share: submissions of assignment 1 as files, and one fork server to grade them with."""

import json
from dataclasses import replace
from pathlib import Path

from multipole_lab.course.grading import markers, notebook
from multipole_lab.course.grading.submission import grade_submission
from multipole_lab.course.sandbox import session
from multipole_lab.course.sandbox.walls import Limits

NAMES = ("A1.1", "A1.2")


def solution_cells(assignment="A1"):
    """{grade_id: source} of the master's solutions."""
    cells, _ = notebook.read(notebook.load_master(assignment).text)
    return {
        cell.name: markers.without_tests(cell.source)
        for cell in cells
        if cell.grade.get("solution") and cell.kind == "code"
    }


def small_master(names=NAMES, seconds=3):
    """The master of assignment 1 with some of its questions and less time for each."""
    master = notebook.load_master("A1")
    items = tuple(replace(item, seconds=seconds) for item in master.items if item.name in names)
    return replace(master, items=items)


def write(path: Path, changed=None, extra=(), metadata=None, before=()) -> Path:
    """Write a submission: the solutions, with cells replaced (None: deleted), and cells before and behind."""
    sources = solution_cells() | (changed or {})
    cells = [("", source) for source in before]
    cells += [(name, source) for name, source in sources.items() if source is not None]
    cells += [("", source) for source in extra]
    content = {
        "cells": [
            {
                "cell_type": "code",
                "id": f"c{i}",
                "metadata": {"nbgrader": {"grade_id": name, "solution": True}} if name else {},
                "source": source,
                "outputs": [],
                "execution_count": None,
            }
            for i, (name, source) in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"name": "python3", "language": "python"}}
        if metadata is None
        else metadata,
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def grader(fork_server, folder, monkeypatch):
    """A function that grades one submission and returns {question: points} and the whole result."""
    monkeypatch.setattr(session, "CELL_SECONDS", 2.0)
    monkeypatch.setattr(session, "PATIENCE", 2.0)

    def run(changed=None, names=NAMES, seconds=2, **how):
        path = write(folder / "someone" / "A1.ipynb", changed, **how)
        result = grade_submission(small_master(names, seconds), path, fork_server, Limits(memory=1 << 30))
        return {item["question"]: item["earned"] for item in result["items"]}, result

    return run


def reasons(result, question="A1.1"):
    """All that the student reads about a question, in one string."""
    item = next(item for item in result["items"] if item["question"] == question)
    return "; ".join([item["reason"], *(test["reason"] for test in item["tests"])])


RIGHT = {"A1.1": 5.0, "A1.2": 5.0}
