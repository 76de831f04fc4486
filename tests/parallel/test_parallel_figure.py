"""The picture of bytes against length: what is drawn where, and what its title claims."""

import numpy as np
import pytest

from multipole_lab import figures

LENGTHS = np.array([8192, 32768, 131072])


def test_it_draws_both_lines_and_says_who_sends_less_and_since_when():
    muse, ring = np.full(3, 4.2e6), np.array([2.1e6, 8.4e6, 33.6e6])
    fig = figures.parallel(LENGTHS, muse, ring, 2, "Forward only.")
    drawn = {trace.name.split(":")[0]: trace for trace in fig.data}
    np.testing.assert_array_equal(drawn["ring attention"].y, ring)
    np.testing.assert_array_equal(drawn["MuSe"].y, muse)
    text = fig.layout.title.text.replace("<br>", " ")
    assert "At 131,072 tokens a rank sends 8.0 times less in MuSe" in text
    assert "at 8,192 it still sends more" in text
    assert "2 ranks" in text
    assert "Forward only." in text
    assert list(fig.layout.xaxis.ticktext) == ["8,192", "32,768", "131,072"]


def test_where_muse_sends_more_the_title_says_so():
    fig = figures.parallel(LENGTHS[:1], np.array([4e6]), np.array([2e6]), 2)
    assert "2.0 times as much in MuSe as in ring attention" in fig.layout.title.text.replace("<br>", " ")


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="have 3, 2 and 3 numbers"):
        figures.parallel(LENGTHS, np.ones(2), np.ones(3), 2)
    with pytest.raises(ValueError, match="at least one"):
        figures.parallel(LENGTHS[:0], np.ones(0), np.ones(0), 2)
