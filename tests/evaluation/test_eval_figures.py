"""The figures of evaluations draw what they are given and claim what is in it."""

import numpy as np
import pytest

from multipole_lab.evaluation.figures import accuracy, loss_by_position, needle_grid


def test_loss_by_position_draws_the_loss_and_the_percent_above_dense():
    edges = np.array([1, 5, 13])
    dense, ours = np.array([4.0, 2.0]), np.array([4.0, 2.1])
    fig = loss_by_position(edges, dense, {"MuSe(clusters=8)": ours}, "a <text>")
    lines = {(trace.name, trace.yaxis): trace for trace in fig.data}
    np.testing.assert_array_equal(lines["dense", "y"].y, dense)
    np.testing.assert_array_equal(lines["MuSe(clusters=8)", "y"].y, ours)
    np.testing.assert_allclose(lines["MuSe(clusters=8)", "y2"].y, [0, 5], atol=1e-9)
    assert list(lines["dense", "y"].customdata) == ["1 to 4", "5 to 12"]
    # (4 * 4 + 8 * 2.1) / (4 * 4 + 8 * 2) = 1.025
    assert "MuSe(clusters=8) +2.50%" in fig.layout.title.text.replace("<br>", " ")
    assert "&lt;text&gt;" in fig.layout.title.text


def test_loss_by_position_of_dense_alone_has_one_panel():
    fig = loss_by_position(np.array([1, 5]), np.array([3.25]), {}, "text")
    assert len(fig.data) == 1
    assert "3.25" in fig.layout.title.text


@pytest.mark.parametrize("methods", [1, 2, 3, 5])
def test_needle_grid_has_a_map_a_method_with_what_was_not_tried_left_empty(methods):
    found = {f"m{i}": np.array([[1.0, 0.5], [0.0, np.nan]]) for i in range(methods)}
    fig = needle_grid([100, 2000], [0, 0.5], found, 0.125)
    assert len(fig.data) == methods
    for trace in fig.data:
        assert list(trace.x) == ["100", "2,000"]
        assert list(trace.y) == ["0%", "50%"]
        np.testing.assert_array_equal(trace.z, found["m0"])
        assert trace.text[1][1] == ""
    assert "m0 50%" in fig.layout.title.text
    assert "12.5%" in fig.layout.title.text


def test_accuracy_marks_each_group_beside_the_level_of_guessing():
    right = {"dense": np.array([1.0, 0.5]), "Window(size=8)": np.array([0.25, 0.25])}
    fig = accuracy(["a", "b"], right, np.array([4, 12]), 0.25, "group")
    for trace in fig.data:
        np.testing.assert_array_equal(trace.y, right[trace.name])
    assert fig.data[0].error_y.array[1] == pytest.approx((0.25 / 12) ** 0.5)
    assert fig.data[0].x[0] < 0 < fig.data[1].x[0]
    assert fig.layout.shapes[0].y0 == 0.25
    title = fig.layout.title.text.replace("<br>", " ")
    assert "dense 62%, Window(size=8) 25%" in title, "the mean over all questions, not over the groups"
    assert "16 questions" in title
