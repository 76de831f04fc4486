"""The lens figure: what it draws of each word and cluster, and what it says in plain words."""

import re

import numpy as np
import pytest

from multipole_lab import figures
from multipole_lab.figures.common import theme

TOKENS = [" a<b>", " lamp", " the", " light", " sea", "\n"]
ARGUMENTS = {
    "tokens": TOKENS,
    "query": 4,
    "exact": np.array([0.5, 0.2, 0.1, 0.1, 0.1, 0.0]),
    "approximate": np.array([0.5, 0.25, 0.1, 0.05, 0.1, 0.0]),
    "cluster": np.array([-1, 7, 2, 7, -1, -2]),
    "moved": np.array([0, 1, 0, -1, 0, 0]),
    "names": {7: ["light", "lamp"], 2: ["the"]},
    "error": 0.0123,
}


def said(figure):
    return re.sub(r"<[^>]+>", " ", figure.layout.title.text.replace("<br>", " ")).replace("&lt;", "<")


def traces(figure, axis):
    return {trace.name: trace for trace in figure.data if trace.xaxis == axis}


def test_it_says_through_which_cluster_the_heaviest_word_is_seen():
    words = said(figures.lens(**ARGUMENTS))
    assert "“sea” sees “lamp” through a cluster of 2 keys with “light”: 30% of its attention" in words
    assert "exactly 30%" in words
    assert "MuSe sums 2 of 5 keys one by one (60% of the attention) and 3 through 2 clusters" in words
    assert "Error of this word: 1.2%" in words


def test_a_word_is_a_ring_and_a_dot_of_the_colour_of_how_it_is_seen():
    figure = figures.lens(**ARGUMENTS)
    words = traces(figure, "x")
    assert figure.layout.yaxis.ticktext == ("a&lt;b&gt;", "lamp", "the", "light", "sea")
    np.testing.assert_allclose(words["exactly"].x, ARGUMENTS["exact"][:5])
    one_by_one, far = words["one by one"], words["in a cluster"]
    assert (one_by_one.y.tolist(), far.y.tolist()) == ([0, 4], [1, 2, 3])
    assert (one_by_one.marker.color, far.marker.color) == (theme.EXACT, theme.TILTED)
    assert far.marker.symbol == ("triangle-right", "circle", "triangle-left")
    assert "cluster of “light” and “lamp”" in far.customdata[0]


def test_a_cluster_is_the_sum_of_its_words():
    figure = figures.lens(**ARGUMENTS)
    clusters = traces(figure, "x2")
    assert figure.layout.yaxis2.ticktext == ("one by one · 2", "light lamp · 2", "the · 1")
    np.testing.assert_allclose(clusters["exactly"].x, [0.6, 0.3, 0.1])
    np.testing.assert_allclose(clusters["in a cluster"].x, [0.3, 0.1])


def test_where_all_is_summed_one_by_one_it_says_so_and_draws_no_more_rows_than_keys():
    exact = np.array([0.75, 0.25, 0, 0, 0, 0])
    figure = figures.lens(**ARGUMENTS | {"query": 1, "exact": exact, "approximate": exact, "names": {},
                                         "cluster": np.array([-1, -1, -2, -2, -2, -2])})  # fmt: skip
    assert "“lamp” sees all 2 keys one by one" in said(figure)
    assert len(figure.layout.yaxis.ticktext) == 2


@pytest.mark.parametrize(
    ("share", "words"), [(0.996, "100%"), (0.123, "12%"), (1e-6, "under 0.01%"), (0, "0%")]
)
def test_shares_are_written_as_a_reader_would(share, words):
    assert f"Error of this word: {words}." in said(figures.lens(**ARGUMENTS | {"error": share}))
