"""The front of error against time, judged by its data."""

import numpy as np
import pytest

from multipole_lab import figures
from multipole_lab.figures.front import pareto, within_budget

NAN = float("nan")
MS = np.array([1.0, 2.0, 3.0, 4.0, 4.0, NAN])
RSE = np.array([0.5, 0.1, 0.2, 0.01, 0.01, NAN])


def draw(budget=2.5, **more):
    return figures.front(
        MS, RSE, families=["a", "a", "b", "b", "b", "a"], settings=list("123456"), exact_ms=5.0,
        budget_ms=budget, machine="a test machine", **more,
    )  # fmt: skip


def words(fig):
    return fig.layout.title.text.replace("<br>", " ")


def test_pareto_keeps_what_nothing_beats_and_equals():
    assert pareto(MS, RSE).tolist() == [True, True, False, True, True, False]


def test_pareto_agrees_with_the_definition_on_random_points():
    rng = np.random.default_rng(0)
    ms, rse = rng.integers(0, 8, (2, 60)).astype(float)
    beaten = [
        any((a <= x and b <= y) and (a < x or b < y) for a, b in zip(ms, rse, strict=True))
        for x, y in zip(ms, rse, strict=True)
    ]
    assert pareto(ms, rse).tolist() == [not b for b in beaten]


@pytest.mark.parametrize(("budget", "best"), [(0.5, None), (1.0, 0), (3.5, 1), (10.0, 3), (NAN, None)])
def test_the_most_accurate_within_the_budget(budget, best):
    assert within_budget(MS, RSE, budget) == best


def test_front_draws_the_line_each_method_and_the_choice():
    fig = draw()
    line, a, b, ring = fig.data
    assert list(line.x) == [1, 2, 4, 4]
    assert [a.name, b.name] == ["a", "b"]
    assert list(b.x) == [3, 4, 4]
    assert a.marker.symbol != b.marker.symbol
    assert list(ring.x) == [2]
    assert ring.text == ("a, 2",)
    assert "Within 2.5 ms, 50% of exact attention's time, the smallest error is 0.10: a, 2" in words(fig)
    assert "a test machine" in words(fig)
    shaded, exact = fig.layout.shapes
    assert shaded.x0 == 2.5
    assert exact.x0 == 5


def test_front_says_that_nothing_is_within_a_small_budget():
    fig = draw(0.5)
    assert "Nothing is within 0.50 ms, 10% of exact attention's time; the fastest takes 1.0 ms" in words(fig)
    assert len(fig.data[-1].x) == 0


def test_front_draws_before_anything_is_measured_and_claims_nothing():
    nothing = np.full(3, NAN)
    fig = figures.front(nothing, nothing, ["a"] * 3, ["1"] * 3, NAN, NAN, machine="m", measuring=True)
    assert "0 of 3" in words(fig)
    assert not fig.layout.shapes
    assert "5 of 6" in words(draw(measuring=True))
