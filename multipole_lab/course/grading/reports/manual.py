"""Points for written answers: ``manual.csv``, which a person fills in, and which is never written over unread."""

from __future__ import annotations

import difflib
import hashlib
import re
from pathlib import Path

from multipole_lab.course.grading.reports.pages import plain
from multipole_lab.course.grading.reports.tables import Table, harmless, number, read_table, write_table

COLUMNS = ["student", "question", "points", "out_of", "comment", "answer", "state"]
CHANGED = "changed since it was read: read it again, then empty the cell under answer"


def take_manual(path: Path, results: list[dict]) -> None:
    """Put points that a person gave into the results, and add a line for every written answer without one.

    Each line keeps which answer its points are for. Where a later submission has another answer the points stay, and
    line and result (``note``) say so. Nothing is written unless every line was understood.

    Raises
    ------
    ValueError : a line that is not understood; it is named, and the file is as it was.
    """
    table = read_table(path, COLUMNS[:3]) if path.is_file() else Table(list(COLUMNS))
    table.columns += [name for name in COLUMNS if name not in table.columns]
    answers = {
        (result["student"], item["question"]): item
        for result in results
        for item in result["items"]
        if item["manual"]
    }
    lines = _by_answer(path, table, answers)
    unread = {result["student"]: bool(result["problem"]) for result in results}
    for key, item in answers.items():
        if unread[key[0]]:
            continue
        row = lines.get(key)
        if row is None:
            row = {"student": harmless(key[0]), "question": key[1], "out_of": plain(item["points"])}
            table.rows.append((0, row))
        _take(item, row)
    write_table(path, table)


def _by_answer(path: Path, table: Table, answers: dict) -> dict[tuple[str, str], dict[str, str]]:
    """{(student, question): row}, all of them checked."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for line, row in table.rows:
        where = f"{path}, line {line}"
        row["points"] = row["points"].strip()
        key = _key(row, answers)
        filled = row["points"] or row.get("comment", "").strip()
        if key not in answers:
            if filled:
                close = difflib.get_close_matches(
                    key[0], {student for student, _ in answers}, n=2, cutoff=0.5
                )
                asked = f"; is it {' or '.join(close)}?" if close and (key[0] not in close) else ""
                raise ValueError(
                    f"{where}: no written answer to {key[1]!r} by {key[0]!r} among the results{asked} "
                    "Fix the line or delete it; nothing was written."
                )
            continue
        most = answers[key]["points"]
        if row["points"]:
            _check_points(where, key, row, most)
        row["out_of"] = plain(most)
        if key in lines:
            if any(lines[key].get(name, "") != row.get(name, "") for name in ("points", "comment")):
                raise ValueError(
                    f"{where}: {key[0]} has two lines for {key[1]} that differ. Nothing was written."
                )
            continue
        lines[key] = row
    return lines


def _check_points(where: str, key: tuple[str, str], row: dict[str, str], most: float) -> None:
    """Refuse points that are none, and a line whose cells have moved: 3,5 in a table with commas are two cells."""
    points, out_of = number(row["points"]), row.get("out_of", "").strip()
    ours = row.get("answer", "").strip(), row.get("state", "").strip()
    if points is None or points > most:
        problem = f"{key[0]} has {row['points']!r} points for {key[1]}; 0 to {plain(most)} are allowed."
    elif out_of and number(out_of) != most:
        problem = (
            f"{key[0]} has points out of {out_of!r} for {key[1]}, which has {plain(most)} (a decimal comma?)."
        )
    elif not re.fullmatch("(a[0-9a-f]{8})?", ours[0]) or ours[1] not in ("", CHANGED):
        problem = f"under answer and state there are {ours}, which no report wrote (a decimal comma?)."
    else:
        return
    raise ValueError(f"{where}: {problem} Nothing was written.")


def _key(row: dict[str, str], answers: dict) -> tuple[str, str]:
    """Student and question; a quotation mark that kept a spreadsheet from computing is no part of a name."""
    question = row["question"].strip()
    for student in (row["student"], row["student"].strip(), row["student"].removeprefix("'")):
        if (student, question) in answers:
            return student, question
    return row["student"], question


def _take(item: dict, row: dict[str, str]) -> None:
    # A letter first: Excel would take 12e45678 for a number.
    digest = "a" + hashlib.sha256(item["answer"].encode("utf-8", "backslashreplace")).hexdigest()[:8]
    item["comment"] = row.get("comment", "")
    if not row.get("points"):
        row["answer"], row["state"] = digest, ""
        return
    item["earned"] = number(row["points"])
    row["answer"] = row.get("answer", "").strip() or digest
    row["state"] = "" if row["answer"] == digest else CHANGED
    if row["state"]:
        item["note"] = f"{item['question']} has changed since it was read"
