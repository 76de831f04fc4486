"""The code in the reading text runs, and gives what the story says."""

import re

import pytest

from multipole_lab.folders import data_folder


@pytest.fixture(scope="module")
def text():
    return (data_folder() / "reading.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def names(text):
    """What the story's program has computed in the end."""
    space = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, space)
    return space


def test_the_ledger(names):
    assert names["slips"] == [("Thu", 481, 418)]
    assert sum(names["week"].values()) == 2664


def test_the_lamps(names):
    assert round(names["honest"], 6) == 0.034077
    assert round(names["lumped"], 6) == 0.033951
    assert round(names["error"], 4) == 0.0037
    assert round(names["glow"]([1, 2, 3]), 4) == 1.3611
    assert names["glow_lumped"]([1, 2, 3]) == 0.75


def test_the_tide(names):
    assert names["highest"] == 360 * 60 + 8
    assert round(names["tide"](names["highest"] / 60), 3) == 5.498
    assert (names["first"], names["last"]) == (360 * 60 - 50, 360 * 60 + 65)
    assert round(names["tide"](354.857), 2) == 0.75


def test_the_flashed_message(names):
    assert names["accept"]([9, 9, 5, 9])
    assert not names["accept"]([9, 5, 9, 9])


def test_the_beat_of_the_two_waves():
    hours = 12 * 12.42 / 0.42
    assert round(hours, 3) == 354.857
    assert round(hours / 24, 3) == 14.786
