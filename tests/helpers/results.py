"""What tests of reports share: results of grading as `course grade` writes them, without grading anything."""

import json
from pathlib import Path

from multipole_lab.course.grading.finding import file_name


def result(student, earned=5.0, problem="", answer="My answer.", reason="<b>off</b>"):
    """A result with a question of 5 points, a written one of 4 and a bonus of 4."""
    shared = {"points": 4, "manual": False, "bonus": False, "reason": problem, "tests": [], "answer": ""}
    test = {"name": "t", "earned": earned, "points": 5, "reason": reason if earned < 5 else ""}
    items = [
        shared | {"question": "A1.1", "title": "weights", "points": 5, "earned": earned, "tests": [test]},
        shared
        | {"question": "A1.7", "title": "words", "manual": True, "earned": 0.0 if problem else None}
        | {"answer": answer},
        shared | {"question": "A1.8", "title": "bonus", "bonus": True, "earned": 1.0},
    ]
    head = {"assignment": "A1", "student": student, "problem": problem, "bonus": 1.0, "notes": []}
    return head | {"items": items}


def write_results(folder: Path, *results) -> Path:
    """Write them as `course grade` does; returns the folder."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    for one in results:
        (folder / "results" / f"{file_name(one['student'])}.json").write_text(json.dumps(one))
    return folder
