"""Reports: the table, the pages, the class as a whole, deadlines; nothing is lost, nothing stops the others."""

import csv
import json
from datetime import UTC, datetime

import pytest
from browsing import FLAGS, find_browser
from results import result, write_results

from multipole_lab import cli
from multipole_lab.course.grading import record
from multipole_lab.course.grading.finding import Submission
from multipole_lab.course.grading.report import report
from multipole_lab.course.grading.reports.class_summary import class_summary
from multipole_lab.course.grading.times import as_time, lateness


def rows(table):
    with open(table, encoding="utf-8", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def test_a_report_has_points_and_marks_what_a_person_must_read(tmp_path):
    who = (
        result("ada", answer="<script>alert(1)</script>"),
        result("=cmd()", 3.0),
        result("eve", 0.0, "no JSON"),
    )
    done = report(write_results(tmp_path, *who))
    lines = done.table.read_text().splitlines()
    assert lines[0] == (
        "student,assignment,A1.1,A1.7,A1.8,points,possible,bonus,to be graded,handed in,late,notes,problem"
    )
    assert "ada,A1,5,to be graded,1,5,9,1,A1.7,,,," in lines
    assert any(line.startswith("'=cmd()") for line in lines), "a spreadsheet would run this"
    assert rows(done.table)["eve"]["problem"] == "no JSON"
    page = (done.feedback / "ada.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "&lt;b&gt;off" in next(done.feedback.glob("_cmd*.html")).read_text()


ODD_TEXTS = {
    "half a character": "caf\ud800",
    "half a character from a file's name": "caf\udce9",
    "control characters": "a\x00b\x1b[2J\x07c",
    "a turn of the writing": "\u202egpj.exe",
    "a formula": '=HYPERLINK("http://x";"y")',
    "a formula behind a space": " \n=1+1",
    "a wide formula": "＝1+1",
    "another delimiter": "a;=1+1\t=2",
    "quotation marks and lines": 'a "quoted",\r\nline\rand\n=1',
    "ten thousand characters": "x" * 10_000,
    "a million characters": "y" * 1_000_000,
    "markup": "</pre><script>alert(1)</script>{{ 7*7 }}{% raw %}",
    "a path": "../../etc/passwd",
    "nothing": "",
    "every plane": "é中\U0001f600\U0010ffff\ufffe",
}


@pytest.mark.parametrize("where", ["student", "answer", "reason", "problem"])
def test_no_text_of_a_submission_stops_the_report_of_the_others(tmp_path, where):
    for number, text in enumerate(ODD_TEXTS.values()):
        odd = result(f"s{number}" if where != "student" else text, 1.0)
        if where == "answer":
            odd["items"][1]["answer"] = text
        elif where == "reason":
            odd["items"][0]["tests"][0]["reason"] = odd["items"][0]["reason"] = text
        elif where == "problem":
            odd["problem"] = text
        write_results(tmp_path / "s", odd) if where != "student" else (
            (tmp_path / "s" / "results").mkdir(parents=True, exist_ok=True),
            (tmp_path / "s" / "results" / f"{number}.json").write_text(json.dumps(odd)),
        )
    write_results(tmp_path / "s", result("zoe"))
    done = report(tmp_path / "s")
    assert done.students == len(ODD_TEXTS) + 1
    assert rows(done.table)["zoe"]["points"] == "5"
    for path in (done.table, done.summary, *done.feedback.glob("*.html")):
        text = path.read_text(encoding="utf-8")
        assert "\x00" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert path.suffix == ".csv" or "<script>" not in text
        assert len(text) < 300_000
    cells = [cell for row in rows(done.table).values() for cell in row.values()]
    assert not [cell for cell in cells if cell.lstrip()[:1] in ("=", "＝")]
    assert not [path.name for path in (tmp_path / "s").rglob("*.partial")]
    assert report(tmp_path / "s").students == len(ODD_TEXTS) + 1, "what was written is read again"


BROKEN = {
    "empty": b"",
    "half": b'{"assignment": "A1", "student": "bob", "items": [',
    "a list": b"[1, 2]",
    "another file": b'{"a": 1}',
    "items that are none": json.dumps(result("bob") | {"items": [1]}).encode(),
    "not UTF-8": b"\xff\xfe{}",
    "nested": b"[" * 100_000,
}


def test_a_broken_result_is_named_and_the_others_are_reported(tmp_path, capsys):
    write_results(tmp_path / "A1", result("ada"))
    for number, data in enumerate(BROKEN.values()):
        (tmp_path / "A1" / "results" / f"bob{number}.json").write_bytes(data)
    assert cli.main(["course", "report", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert all(f"bob{number}.json" in said for number in range(len(BROKEN)))
    assert list(rows(tmp_path / "A1" / "grades.csv")) == ["ada"]


def test_results_of_each_assignment_have_a_report_of_their_own(tmp_path, capsys):
    write_results(tmp_path / "A1", result("ada"))
    write_results(tmp_path / "A2", result("ada", 3.0) | {"assignment": "A2"})
    assert cli.main(["course", "report", str(tmp_path)]) == 0
    assert rows(tmp_path / "A1" / "grades.csv")["ada"]["points"] == "5"
    assert rows(tmp_path / "A2" / "grades.csv")["ada"]["points"] == "3"
    (tmp_path / "A1" / "manual.csv").write_text("nonsense")
    (tmp_path / "A2" / "grades.csv").unlink()
    assert cli.main(["course", "report", str(tmp_path)]) == 1, "A1 is named"
    assert (tmp_path / "A2" / "grades.csv").is_file(), "and A2 reported"
    assert cli.main(["course", "report", str(tmp_path), "--assignment", "A3"]) == 1
    assert cli.main(["course", "report", str(tmp_path), "--deadline", "2026-11-30"]) == 1
    assert "--assignment A1" in capsys.readouterr().err


# --- who, and when --------------------------------------------------------------------------------


def handed_in(folder, **times):
    submissions = [
        Submission(student, folder / student, as_time(time) if time else None)
        for student, time in times.items()
    ]
    record.note_submissions(folder, folder / "in", submissions, only=False)


def test_deadlines_extensions_and_lateness_are_in_the_table_and_remembered(tmp_path):
    write_results(tmp_path, result("ada"), result("bob"), result("eve"), result("zoe"))
    handed_in(tmp_path, ada="2026-11-30 23:59", bob="2026-12-01 02:04:30", eve="2026-12-02 00:00", zoe="")
    done = report(tmp_path, "2026-11-30 23:59", [("eve", "2026-12-03")])
    late = {student: row["late"] for student, row in rows(done.table).items()}
    assert late == {"ada": "", "bob": "2 h 6 min", "eve": "", "zoe": ""}
    assert rows(done.table)["bob"]["handed in"] == "2026-12-01 02:04"
    assert "late by 2 h 6 min" in (done.feedback / "bob.html").read_text()
    assert "1 late" in done.summary.read_text()
    assert rows(report(tmp_path).table)["bob"]["late"] == "2 h 6 min", "remembered"
    with pytest.raises(ValueError, match="no student 'eva'; eve"):
        report(tmp_path, extensions=[("eva", "2026-12-03")])
    with pytest.raises(ValueError, match="2026-11-30 23:59"):
        report(tmp_path, "tomorrow")


def test_a_time_is_of_here_unless_it_names_its_zone():
    assert as_time("2026-11-30T23:59+01:00") == datetime(2026, 11, 30, 22, 59, tzinfo=UTC)
    assert as_time("2015-02-02 15:58:23.948203 UTC") == datetime(2015, 2, 2, 15, 58, 23, tzinfo=UTC)
    assert as_time("2026-11-30 12:00") == datetime(2026, 11, 30, 12).astimezone(UTC)
    due = as_time("2026-11-30 12:00")
    assert lateness(as_time("2026-12-02 13:00"), due) == "2 d 1 h"
    assert [lateness(None, due), lateness(due, due), lateness(due, None)] == ["", "", ""]


def test_withdrawn_students_and_notes_stand_in_the_table_and_not_in_the_summary(tmp_path):
    write_results(tmp_path, result("ada"), result("bob", 1.0))
    submission = Submission("ada", tmp_path / "x", None, ("2 notebooks: A1.ipynb is graded",))
    record.note_submissions(tmp_path, tmp_path / "in", [submission], only=False)
    done = report(tmp_path)
    table = rows(done.table)
    assert "withdrawn" in table["bob"]["notes"]
    assert "2 notebooks" in table["ada"]["notes"]
    assert "2 notebooks" in (done.feedback / "ada.html").read_text()
    assert "1 students" in done.summary.read_text()


# --- the class ------------------------------------------------------------------------------------


def test_a_summary_counts_points_and_the_commonest_mistakes():
    off = "the result is off by up to {}, with numbers up to 3"
    results = [
        result("a"),
        result("b", 2.0, reason=off.format(0.5)),
        result("c", 2.5, reason=off.format("1e-3")),
    ]
    results += [result("d", 0.0, reason="f raised TypeError"), result("e", 0.0, "not JSON")]
    page = class_summary(results)
    first, words, bonus = page["questions"]
    assert (page["students"], page["ungraded"]) == (5, 1)
    assert [bar["count"] for bar in first["bars"]] == [2, 0, 2, 0, 0, 1]
    assert first["mistakes"][0] == {
        "reason": "the result is off by up to …, with numbers up to …", "count": 2, "where": "t"
    }  # fmt: skip
    assert [mistake["count"] for mistake in first["mistakes"]] == [2, 1]
    assert words["unread"] == 4
    assert page["total"]["mean"] == "1.9"


@pytest.mark.browser
def test_a_page_of_feedback_fits_a_phone(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    one = result("x" * 200, 1.0, answer="y" * 500 + "\n" + "word " * 200, reason="z" * 300)
    done = report(write_results(tmp_path, one))
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_browser(), args=FLAGS)
        page = browser.new_page(viewport={"width": 360, "height": 640})
        for path in (done.summary, next(done.feedback.glob("*.html"))):
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
