"""The matrix figure: four squares on the same places, holes where no query sees a key, and numbers in the title."""

import numpy as np
import pytest

from multipole_lab import figures
from multipole_lab.figures.looks.matrix import FAINTEST, HOLE

EXACT = np.array([[1.0, 0.0], [0.25, 0.75]])
APPROXIMATE = np.array([[1.0, 0.0], [0.5, 0.5]])
PAIRS = np.array([[3, 0], [4, 3]])
SUMMED = np.array([[3, 0], [0, 3]])


@pytest.fixture(scope="module")
def figure():
    return figures.matrix(EXACT, APPROXIMATE, SUMMED, PAIRS, tokens=4, rse=0.0123, edges=[(0, 2, 2, 4)])


def test_shares_are_powers_of_ten_and_what_no_query_sees_is_a_hole(figure):
    exact, approximate, difference, summed = figure.data[:4]
    np.testing.assert_allclose(exact.z, [[0, HOLE], [np.log10(0.25).round(2), np.log10(0.75).round(2)]])
    np.testing.assert_allclose(approximate.customdata, APPROXIMATE)
    np.testing.assert_allclose(difference.z, [[0, 0], [0.25, -0.25]])
    np.testing.assert_allclose(summed.z, [[1, -1], [0, 1]])
    assert np.log10(FAINTEST) > HOLE


def test_every_square_has_the_same_tokens_and_the_title_the_error_and_the_part_that_is_exact(figure):
    assert "error 0.012 with 60% of the pairs" in figure.layout.title.text.replace("<br>", " ")
    for i in ("", 2, 3, 4):
        x, y = figure.layout[f"xaxis{i}"], figure.layout[f"yaxis{i}"]
        assert (x.range, y.range) == ((0, 4), (4, 0))
        assert y.scaleanchor == f"x{i}"
    assert {(trace.x0, trace.dx) for trace in figure.data[:4]} == {(1, 2)}
    assert all(list(edge.x[:5]) == [0, 2, 2, 0, 0] for edge in figure.data[4:])


def test_no_square_gives_width_to_a_bar_of_colours_or_to_labels_that_its_neighbour_has(figure):
    assert [trace.showscale for trace in figure.data[:4]] == [None, False, False, False]
    assert figure.data[0].colorbar.orientation == "h"
    assert [figure.layout[f"yaxis{i}"].showticklabels for i in ("", 2, 3, 4)] == [True, False, True, False]
