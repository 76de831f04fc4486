"""manual.csv: read in every dialect of spreadsheets; no line that was not understood is written over."""

import codecs
import csv

import pytest
from results import result, write_results

from multipole_lab import cli
from multipole_lab.course.grading.report import report
from multipole_lab.course.grading.reports import tables
from multipole_lab.course.grading.reports.manual import take_manual

COMMENT = "Well said; “really”, ada."
HEADER = ["student", "question", "points", "out_of", "comment", "answer", "state"]


@pytest.fixture
def desk(tmp_path):
    """An assignment's folder with results of three students, whose manual.csv has been written."""
    report(write_results(tmp_path / "A1", result("ada"), result("Zoë"), result("=cmd()")))
    return tmp_path / "A1"


def filled(desk, points="3.5", comment=COMMENT):
    """The rows as a person fills them in."""
    table = tables.read_table(desk / "manual.csv", HEADER[:3])
    rows = [[row[name] for name in table.columns] for _, row in table.rows]
    rows[[row[0] for row in rows].index("ada")][2:5] = [points, "4", comment]
    return [table.columns, *rows]


def earned(desk, student="ada"):
    with open(desk / "grades.csv", encoding="utf-8", newline="") as file:
        return {row["student"]: row["A1.7"] for row in csv.DictReader(file)}[student]


SAVED = {
    "commas": lambda rows: tables.as_csv(rows).encode(),
    "commas, with a byte order mark": lambda rows: codecs.BOM_UTF8 + tables.as_csv(rows).encode(),
    "semicolons": lambda rows: tables.as_csv(rows, ";").encode("utf-8-sig"),
    "semicolons of an old Windows": lambda rows: tables.as_csv(rows, ";").encode("cp1252"),
    "tabs": lambda rows: tables.as_csv(rows, "\t").encode(),
    "Excel's Unicode text": lambda rows: tables.as_csv(rows, "\t").encode("utf-16"),
    "UTF-16, the other way round": lambda r: codecs.BOM_UTF16_BE + tables.as_csv(r, "\t").encode("utf-16-be"),
    "UTF-16 without a mark": lambda rows: tables.as_csv(rows, "\t").encode("utf-16-le"),
    "ends of lines of Unix": lambda rows: tables.as_csv(rows).replace("\r\n", "\n").encode(),
    "ends of lines of an old Mac": lambda rows: tables.as_csv(rows).replace("\r\n", "\r").encode(),
    "everything in quotes": lambda rows: "\n".join(
        ";".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows
    ).encode(),
    "a line that names the delimiter": lambda rows: b"sep=;\r\n" + tables.as_csv(rows, ";").encode(),
    "columns in another order": lambda rows: tables.as_csv([row[::-1] for row in rows]).encode(),
    "a column of one's own": lambda rows: tables.as_csv(
        [[*row, cell] for row, cell in zip(rows, ["reader", *"xyz"], strict=True)]
    ).encode(),
    "empty lines and columns": lambda rows: tables.as_csv(
        [r for row in rows for r in ([*row, "", ""], ["", ""])]
    ).encode(),
    "a capital letter": lambda rows: tables.as_csv([[" Student ", *rows[0][1:]], *rows[1:]]).encode(),
    "only the columns that are needed": lambda rows: tables.as_csv([row[:3] for row in rows]).encode(),
}


@pytest.mark.parametrize("points", ["3.5", "3,5", " 4 "])
def test_points_are_read_however_the_table_was_saved(desk, points):
    rows, path = filled(desk, points), desk / "manual.csv"
    for how, saved in SAVED.items():
        for saved_again in (False, True):  # what was written back is read again
            if not saved_again:
                path.write_bytes(saved(rows))
            results = [result("ada"), result("Zoë"), result("=cmd()")]
            take_manual(path, results)
            assert results[0]["items"][1]["earned"] == float(points.replace(",", ".")), (how, saved_again)
            assert "only the" in how or results[0]["items"][1]["comment"] == COMMENT, (how, saved_again)
            assert results[1]["items"][1]["earned"] is None, (how, saved_again)
        again = tables.read_table(path, HEADER)
        assert [row["student"] for _, row in again.rows] == [row[0] for row in rows[1:]], how
        assert "of one's own" not in how or [row["reader"] for _, row in again.rows] == [*"xyz"]


def test_a_table_comes_back_in_the_dialect_in_which_it_was_saved(desk):
    (desk / "manual.csv").write_bytes(tables.as_csv(filled(desk), ";").encode("utf-16"))
    write_results(desk, result("newcomer"))
    report(desk)
    raw = (desk / "manual.csv").read_bytes()
    assert raw.startswith(codecs.BOM_UTF16_LE)
    assert "newcomer;A1.7;;4" in raw.decode("utf-16")


def line(*cells):
    return tables.as_csv([cells]).encode()


HEAD = line(*HEADER)
NOT_UNDERSTOOD = {
    "more points than there are": (HEAD + line("ada", "A1.7", "35", "4"), "line 2: ada has '35' points"),
    "less than nothing": (HEAD + line("ada", "A1.7", "-1", "4"), "line 2"),
    "a word": (HEAD + line("ada", "A1.7", "good", "4"), "'good'"),
    "no number": (HEAD + line("ada", "A1.7", "nan", "4"), "'nan'"),
    "without end": (HEAD + line("ada", "A1.7", "1e309", "4"), "line 2"),
    "a number for programmers": (HEAD + line("ada", "A1.7", "1_0", "4"), "'1_0'"),
    "a date that a spreadsheet made of 3.5": (HEAD + line("ada", "A1.7", "03. May", "4"), "May"),
    "a fraction": (HEAD + line("ada", "A1.7", "3/4", "4"), "3/4"),
    "a comma without quotes": (HEAD + b"ada,A1.7,3,5,4,,abc,\r\n", "line 2: ada has points out of '5'"),
    "a comma where four are allowed": (
        HEAD + b"ada,A1.7,2,4,4,,a01234567,\r\n",
        "line 2: under answer and state",
    ),
    "semicolons below commas": (HEAD + b"ada;A1.7;3;4\r\n", "line 2: 1 cells"),
    "a cell beside the table": (HEAD.replace(b"\r\n", b",\r\n") + b"ada,A1.7,,4,,,,3\r\n", "line 2"),
    "a semicolon behind the commas": (b"student,question,points;\r\nada,A1.7,;3\r\n", "line 1"),
    "nobody": (HEAD + line("adam", "A1.7", "3", "4"), "line 2: no written answer to 'A1.7' by 'adam'"),
    "no such question": (HEAD + line("ada", "A1.9", "3", "4"), "line 2: no written answer to 'A1.9'"),
    "a question that the grader grades": (HEAD + line("ada", "A1.1", "3", "4"), "line 2"),
    "a comment for nobody": (HEAD + line("adam", "A1.7", "", "4", "Well said."), "line 2"),
    "no student": (HEAD + line("", "A1.7", "3", "4"), "line 2"),
    "two lines that differ": (
        HEAD + line("ada", "A1.7", "3") + line("ada", "A1.7", "2"),
        "line 3: ada has two lines",
    ),
    "after a comment of two lines": (
        HEAD + line("ada", "A1.7", "3", "4", "a\nb") + line("Zoë", "A1.7", "x"),
        "line 4",
    ),
    "a quotation mark too many": (HEAD + b'ada,A1.7,3,4,"well\r\nZo\xc3\xab,A1.7,,4\r\n', "quotation mark"),
    "no header": (
        line("ada", "A1.7", "3", "4"),
        "line 1: the columns student, question, points are not there",
    ),
    "a column twice": (
        line("student", "question", "points", "points") + line("ada", "A1.7", "3", "4"),
        "twice",
    ),
    "a spreadsheet's own file": (b"PK\x03\x04\x14\x00\x06\x00\x08\x00" * 50, "no table of text"),
    "half of UTF-16": (HEAD.decode().encode("utf-16") + b"\x00", "no table of text"),
    "another table": (b"name,grade\r\nada,3\r\n", "line 1"),
    "a cell without end": (HEAD + line("ada", "A1.7", "3", "4", "x" * 200_000), "line 2: field larger"),
}


def test_a_line_that_is_not_understood_is_named_and_nothing_is_written(desk, capsys):
    before = {path: path.read_bytes() for path in desk.rglob("*") if path.is_file()}
    for how, (data, said) in NOT_UNDERSTOOD.items():
        (desk / "manual.csv").write_bytes(data)
        assert cli.main(["course", "report", str(desk)]) == 1, how
        assert said in capsys.readouterr().err, how
        after = {path: path.read_bytes() for path in desk.rglob("*") if path.is_file()}
        assert after == before | {desk / "manual.csv": data}, f"{how}: neither tables nor pages are written"


@pytest.mark.parametrize("data", [b"", b"\r\n", codecs.BOM_UTF8])
def test_an_empty_table_is_begun_again(desk, data):
    (desk / "manual.csv").write_bytes(data)
    report(desk)
    assert b"ada,A1.7,,4" in (desk / "manual.csv").read_bytes()


def test_lines_without_points_may_be_of_anybody_and_stay(desk):
    (desk / "manual.csv").write_bytes(HEAD + line("adam", "A1.7", "", "4"))
    report(desk)
    assert b"adam,A1.7,,4" in (desk / "manual.csv").read_bytes()


def test_points_for_an_answer_that_has_changed_stay_and_are_marked(desk):
    (desk / "manual.csv").write_bytes(tables.as_csv(filled(desk)).encode())
    report(desk)
    write_results(desk, result("ada", answer="Another answer."))
    report(desk)
    assert earned(desk) == "3.5"
    assert "A1.7 has changed since it was read" in (desk / "grades.csv").read_text()
    table = tables.read_table(desk / "manual.csv", HEADER)
    row = next(row for _, row in table.rows if row["student"] == "ada")
    assert "changed since it was read" in row["state"]
    assert row["answer"][0] == "a", "no spreadsheet takes it for a number"

    row["answer"] = ""  # read again
    tables.write_table(desk / "manual.csv", table)
    report(desk)
    assert "has changed" not in (desk / "grades.csv").read_text()
    assert earned(desk) == "3.5"


def test_an_answer_that_nobody_has_read_may_change_unmarked(desk):
    write_results(desk, result("ada", answer="Another answer."))
    report(desk)
    rows = filled(desk)
    (desk / "manual.csv").write_bytes(tables.as_csv(rows).encode())
    report(desk)
    assert "has changed" not in (desk / "grades.csv").read_text()


def test_points_of_a_file_that_cannot_be_graded_now_are_kept(desk):
    (desk / "manual.csv").write_bytes(tables.as_csv(filled(desk)).encode())
    write_results(desk, result("ada", 0.0, "no JSON"))
    report(desk)
    assert b"3.5" in (desk / "manual.csv").read_bytes()
    assert earned(desk) == "0"


def test_a_table_that_is_saved_while_it_is_read_is_not_written_over(desk):
    table = tables.read_table(desk / "manual.csv", HEADER)
    (desk / "manual.csv").write_bytes(HEAD)
    with pytest.raises(ValueError, match="changed while it was read"):
        tables.write_table(desk / "manual.csv", table)
    assert (desk / "manual.csv").read_bytes() == HEAD
