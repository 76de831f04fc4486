"""Errors by hand-made numbers, and turns that interleave."""

import math

import pytest
import torch

from multipole_lab.analysis import interleaved, per_head_error, per_query_error, relative_squared_error


def test_the_error_of_a_head_is_relative_and_heads_are_averaged():
    exact = torch.tensor([[[[3.0, 4.0]], [[1.0, 0.0]]]])
    approx = torch.tensor([[[[3.0, 3.0]], [[0.0, 0.0]]]])
    assert per_head_error(approx, exact).tolist() == [[1 / 25, 1.0]]
    assert math.isclose(relative_squared_error(approx, exact).item(), (1 / 25 + 1) / 2)
    torch.testing.assert_close(per_query_error(approx, exact).mean(-1), per_head_error(approx, exact))


@pytest.mark.parametrize("side", ["approx", "exact"])
def test_a_nan_is_never_reported_as_a_small_error(side):
    sides = {"approx": torch.ones(1, 1, 3, 2), "exact": torch.ones(1, 1, 3, 2)}
    sides[side][0, 0, 1] = math.nan
    assert not per_head_error(**sides).item() < math.inf


def test_zero_exact_output_counts_nothing_or_everything():
    zero = torch.zeros(1, 1, 3, 2)
    assert per_head_error(zero, zero).item() == 0
    assert per_head_error(zero + 1, zero).item() == math.inf


def test_sides_take_turns():
    calls = []
    times = interleaved({"A": lambda: calls.append("A"), "B": lambda: calls.append("B")}, repeats=2)
    assert calls == ["A", "B"] * 3
    assert set(times) == {"A", "B"}
