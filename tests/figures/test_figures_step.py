"""A step as lanes: what is drawn, and what the title says of it."""

import numpy as np
import pytest

from multipole_lab import figures


def profile(rank, began, **lanes):
    return {"rank": rank, "began_s": began, "lanes": {"step": [[0.0, 10.0]], **lanes}}


def test_every_lane_of_every_process_stands_where_it_was_on_one_clock():
    first = profile(0, 5.0, compute=[[0.0, 4.0], [6.0, 8.0]], messages=[[3.0, 7.0]])
    second = profile(1, 5.001, compute=[[0.0, 9.0]], host=[[1.0, 2.0]])
    fig = figures.step([second, first], "Measured.")
    assert [bar.y[0] for bar in fig.data] == [
        "rank 0, compute",
        "rank 0, messages",
        "rank 1, compute",
        "rank 1, host",
    ]
    np.testing.assert_allclose(fig.data[0].base, [0, 6])
    np.testing.assert_allclose(fig.data[0].x, [4, 2])
    np.testing.assert_allclose(fig.data[2].base, [1], rtol=1e-6)  # a millisecond later
    title = fig.layout.title.text.replace("<br>", " ")
    assert "Rank 1 computes for 90% of the step, rank 0 for 60%" in title
    assert "50% of the messages' time lies below computing" in title
    assert "Measured." in title


def test_one_process_sends_no_message():
    title = figures.step([profile(0, 0.0, compute=[[0.0, 2.5]])]).layout.title.text.replace("<br>", " ")
    assert "Computing takes 25% of the step; no message is sent" in title


def test_a_step_needs_profiles_with_lanes():
    with pytest.raises(ValueError, match="profiles has none"):
        figures.step([])
    with pytest.raises(ValueError, match=r"profiles\[1\] has no 'lanes'"):
        figures.step([profile(0, 0.0), {"rank": 1}])
