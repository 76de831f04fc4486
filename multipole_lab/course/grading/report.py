"""From results to marks: a table and a summary for the instructor, one page of feedback for each student."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from multipole_lab import files
from multipole_lab.course.grading import record
from multipole_lab.course.grading.bounds import all_shown
from multipole_lab.course.grading.reports import pages
from multipole_lab.course.grading.reports.class_summary import class_summary
from multipole_lab.course.grading.reports.manual import take_manual
from multipole_lab.course.grading.reports.pages import plain
from multipole_lab.course.grading.reports.tables import as_csv, harmless
from multipole_lab.course.grading.times import lateness

TO_GRADE = "to be graded"
WITHDRAWN = "not in the folder of submissions any more (withdrawn?)"


@dataclass(frozen=True)
class Report:
    """What was written for one assignment.

    Attributes
    ----------
    table, summary, feedback, manual : grades.csv, summary.html, the folder of the students' pages, manual.csv.
    students : how many are in the table.
    unreadable : results that are in none of them, with the reason.
    """

    table: Path
    summary: Path
    feedback: Path
    manual: Path
    students: int
    unreadable: tuple[str, ...]


def assignment_folders(out: Path, assignment: str | None = None) -> list[Path]:
    """The folders below ``out`` that hold an assignment's results, or ``out`` itself where it is one.

    Raises
    ------
    ValueError : there are none.
    """
    folders = [out] if assignment is None else []
    folders += [out / assignment] if assignment else sorted(out.glob("*/")) if out.is_dir() else []
    found = [folder for folder in folders if _has_results(folder)]
    if not found:
        raise ValueError(f"no results in {out / (assignment or '')}: run `multipole-lab course grade` first")
    return found


def report(
    folder: Path, deadline: str | None = None, extensions: list[tuple[str, str]] | None = None
) -> Report:
    """Write grades.csv, summary.html and ``feedback/<student>.html`` from the ``results`` of one assignment.

    Points for written answers are read from ``manual.csv``, which is written with one empty line for each of them
    and is filled in by a person; what stands in it is kept, also when more results come in later.

    Parameters
    ----------
    folder : of the assignment: ``graded/A1``.
    deadline : by when it was due, such as "2026-11-30 23:59"; remembered. None: as before.
    extensions : (student, another time); remembered.

    Raises
    ------
    MissingPackage : without jinja2; the message has the command.
    ValueError : no results yet, no time, or a line of manual.csv that is not understood: then nothing is written.
    """
    pages.require_tools()
    if not _has_results(folder):
        raise ValueError(f"no results in {folder / 'results'}: run `multipole-lab course grade` first")
    results, unreadable = _results(folder / "results")
    take_manual(folder / "manual.csv", list(results.values()))
    if deadline is not None or extensions:
        names = [result["student"] for result in results.values()]
        record.set_deadline(folder, deadline, extensions or [], names)
    known, (due, later) = record.students(folder), record.deadlines(folder)
    for result in results.values():
        _add_hand_in(result, known, due, later)
    (folder / "feedback").mkdir(exist_ok=True)
    for stem, result in results.items():
        total, possible, waiting = summary(result)
        html = pages.feedback(
            title=f"{result['assignment']}: {result['student']}",
            r=result,
            total=plain(total),
            possible=plain(possible),
            waiting=waiting,
            **{name: result[name] for name in ("handed_in", "late")},
            notes=result["notes"] + result["hand_in_notes"],
        )
        files.write(folder / "feedback" / f"{stem}.html", html)
    table, of_class = folder / "grades.csv", folder / "summary.html"
    files.write(table, _table(list(results.values())))
    files.write(of_class, _of_class([result for result in results.values() if not result["withdrawn"]]))
    return Report(
        table, of_class, folder / "feedback", folder / "manual.csv", len(results), tuple(unreadable)
    )


def summary(result: dict) -> tuple[float, float, list[str]]:
    """Points without the bonus, how many there could be, and the written questions that wait for a reader."""
    regular = [item for item in result["items"] if not item["bonus"]]
    waiting = [item["question"] for item in regular if item["earned"] is None]
    return sum(i["earned"] or 0.0 for i in regular), sum(i["points"] for i in regular), waiting


def _has_results(folder: Path) -> bool:
    return any((folder / "results").glob("[!.]*.json"))


def _results(folder: Path) -> tuple[dict[str, dict], list[str]]:
    """{name of the file: result}, and the files that hold none."""
    results, unreadable = {}, []
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            result = all_shown(json.loads(path.read_text(encoding="utf-8")))
            summary(result)
            for name in ("student", "assignment", "problem", "bonus", "notes"):
                result[name]
            for item in result["items"]:
                item["question"], item["title"], item["manual"], item["reason"], item["answer"], item["tests"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            unreadable.append(f"{path.name}: no result of `course grade` ({type(error).__name__}: {error})")
        else:
            results[path.stem] = result
    return results, unreadable


def _add_hand_in(
    result: dict, known: dict[str, dict], due: datetime | None, later: dict[str, datetime]
) -> None:
    """Add when it was handed in, how late, and notes for the student and for the instructor alone."""
    entry = known.get(result["student"])
    at = entry["handed_in"] if entry else None
    result["handed_in"] = f"{at.astimezone():%Y-%m-%d %H:%M}" if at else ""
    result["late"] = lateness(at, later.get(result["student"], due))
    result["hand_in_notes"] = entry["notes"] if entry else []
    result["desk_notes"] = [item["note"] for item in result["items"] if item.get("note")]
    result["withdrawn"] = bool(known) and not entry
    if result["withdrawn"]:
        result["desk_notes"].append(WITHDRAWN)


def _table(results: list[dict]) -> str:
    questions = list(dict.fromkeys(item["question"] for r in results for item in r["items"]))
    ends = ["points", "possible", "bonus", TO_GRADE, "handed in", "late", "notes", "problem"]
    lines = [["student", "assignment", *questions, *ends]]
    for result in results:
        by_name = {item["question"]: item for item in result["items"]}
        total, possible, waiting = summary(result)
        notes = [*result["desk_notes"], *result["hand_in_notes"], *result["notes"]]
        lines.append(
            [
                harmless(result["student"]),
                result["assignment"],
                *(_points(by_name.get(question)) for question in questions),
                plain(total),
                plain(possible),
                plain(result["bonus"]),
                " ".join(waiting),
                result["handed_in"],
                result["late"],
                harmless("; ".join(notes)),
                harmless(result["problem"]),
            ]
        )
    return as_csv(lines)


def _points(item: dict | None) -> str:
    if item is None:
        return ""
    return TO_GRADE if item["earned"] is None else plain(item["earned"])


def _of_class(results: list[dict]) -> str:
    assignment = results[0]["assignment"] if results else "An assignment"
    late = sum(bool(result["late"]) for result in results)
    return pages.summary(title=f"{assignment}: the class", late=late, **class_summary(results))
