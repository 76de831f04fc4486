"""The cost figure: pairs of bars on scales of their own, with numbers and words that a reader would use."""

import re

import numpy as np
import pytest

from multipole_lab import figures
from multipole_lab.figures.cost import amount, duration

EXACT = np.array([1.8e13, 8.6e9, 9e5, 4e9])
CHEAPER = np.array([6e11, 2.6e10, 1e5, 4.5e9])


def said(figure):
    return re.sub(r"<[^>]+>", " ", figure.layout.title.text.replace("<br>", " "))


def test_each_pair_has_a_scale_of_its_own_and_its_numbers():
    figure = figures.cost(EXACT, CHEAPER, "8,192 tokens", "a laptop", "MuSe(clusters=64)", 2048, 4.3e9)
    exact, approximate = figure.data
    np.testing.assert_allclose(np.maximum(exact.x, approximate.x), 1)
    np.testing.assert_allclose(exact.x / approximate.x, EXACT / CHEAPER)
    assert list(exact.text) == ["18 trillion", "8.6 GB", "15 min", "4.0 GB"]
    words = said(figure)
    assert "8,192 tokens: MuSe would be 9.0 times faster than exact attention" in words
    assert "faster from 2,048 tokens on" in words
    assert "matrix of all weights would take 4.3 GB; none is stored" in words
    assert "Prices measured on a laptop" in words


def test_what_is_slower_is_called_slower():
    words = said(figures.cost(CHEAPER, EXACT, "512 tokens", "a laptop"))
    assert "MuSe would be 9.0 times slower than exact attention" in words
    assert "faster at no length" in words


def test_without_prices_there_are_no_numbers():
    nothing = np.full(4, np.nan)
    figure = figures.cost(nothing, nothing, "512 tokens", "a laptop", measuring=True)
    assert set(figure.data[0].text) == {"?"}
    assert "Measuring" in said(figure)


@pytest.mark.parametrize(
    ("ms", "words"),
    [(0.41, "0.41 ms"), (1500, "1.5 s"), (90_000, "1.5 min"), (7.2e6, "2.0 h"), (2.6e8, "3.0 days")],
)
def test_times_have_the_unit_that_suits_them(ms, words):
    assert duration(ms) == words


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 B"), (999, "999 B"), (999_900, "1.0 MB"), (5e18, "5,000 PB")]
)
def test_bytes_have_the_unit_that_suits_them(number, words):
    assert amount(number) == words
