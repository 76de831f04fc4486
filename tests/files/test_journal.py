"""Results are appended, found again, and never mixed with others."""

import json

import pytest

from multipole_lab.journal import Journal, settings_hash

SETTINGS = {"model": "tiny", "edges": (1, 2)}


def row(i, **more):
    return {"id": f"i{i}", "method": "dense", **more}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    with Journal(path, SETTINGS, {"command": "x"}) as journal:
        journal.add(row(0, loss=1.5))
        journal.add(row(1, loss=float("nan")))
    return path


def test_rows_are_on_the_disk_before_the_next_and_found_again(path):
    with Journal(path, SETTINGS, {}) as journal:
        assert journal.rows["i0", "dense"]["loss"] == 1.5
        assert journal.header["command"] == "x"
        journal.add(row(2))
        assert json.loads(path.read_text().splitlines()[-1]) == row(2)


def test_the_order_of_settings_does_not_count():
    assert (
        settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1}) != settings_hash({"a": 1, "b": 3})
    )


@pytest.mark.parametrize("cut", [1, 10])
def test_a_torn_last_line_is_dropped_and_computed_again(path, cut):
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path, SETTINGS, {}) as journal:
        assert set(journal.rows) == {("i0", "dense")}
        journal.add(row(1, loss=2))
    with Journal(path, SETTINGS, {}) as journal:
        assert journal.rows["i1", "dense"]["loss"] == 2


def test_a_torn_header_is_written_again(path):
    path.write_bytes(path.read_bytes()[:40])
    with Journal(path, SETTINGS, {}) as journal:
        assert journal.rows == {}
    assert json.loads(path.read_text())["settings"] == {"model": "tiny", "edges": [1, 2]}


def test_other_settings_are_named(path):
    with pytest.raises(ValueError, match='model was "tiny" and is "large"') as caught, \
            Journal(path, {**SETTINGS, "model": "large"}, {}):  # fmt: skip
        pass
    assert str(path) in str(caught.value)
    assert "edges" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [(b"{not json}\n", "no JSON"), (b"[1]\n", "no JSON object"), (b'{"id": "x"}\n', "without id and method")],
)
def test_a_malformed_line_in_the_middle_is_named(path, line, said):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line, *lines[2:]]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"line 3.*{said}"), Journal(path, SETTINGS, {}):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"hello", b"hello\n", b'{"a": 1}\n', b"[1, 2]\n"])
def test_a_file_of_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"no results file|no JSON object"), Journal(path, SETTINGS, {}):
        pass
    assert path.read_bytes() == content


def test_two_runs_do_not_write_one_file(path):
    with Journal(path, SETTINGS, {}) as journal:
        with pytest.raises(ValueError, match="another run"), Journal(path, SETTINGS, {}):
            pass
        journal.add(row(5))
    with Journal(path, SETTINGS, {}):
        pass
