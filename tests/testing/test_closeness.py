"""A comparison that fails says what, where, and both numbers."""

import pytest
import torch

from multipole_lab.testing import assert_close, relative_error

RIGHT = torch.arange(6.0, dtype=torch.float64).view(2, 3)


def wrong(value, dtype=torch.float32):
    x = RIGHT.to(dtype, copy=True)
    x[1, 0] = value
    return x


@pytest.mark.parametrize(
    "limits", [{}, {"error": 1e-3}, {"rtol": 1e-3}, {"atol": 0.1}, {"error": 1, "atol": 0.1}]
)
def test_the_worst_place_is_named_with_both_values(limits):
    with pytest.raises(AssertionError, match=r"^dq: .*Worst at \[1, 0\]: ours 3\.5, oracle 3$"):
        assert_close("dq", wrong(3.5), RIGHT, **limits)
    assert_close("dq", RIGHT.float(), RIGHT, **limits)


def test_the_worst_place_is_the_one_furthest_over_what_is_allowed():
    ours = RIGHT.clone()
    ours[1, 2] += 0.4  # a larger difference, allowed
    ours[0, 1] += 0.2
    with pytest.raises(AssertionError, match=r"1 of 6 numbers .*Worst at \[0, 1\]: ours 1\.2, oracle 1$"):
        assert_close("out", ours, RIGHT, rtol=0.1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_are_not_close_to_a_number(value):
    for limits in ({}, {"error": 1e9}, {"atol": 1e9}):
        with pytest.raises(AssertionError, match=rf"Worst at \[1, 0\]: ours {value}, oracle 3"):
            assert_close("lse", wrong(value), RIGHT, **limits)


def test_equal_infinities_agree_and_nan_agrees_with_nothing():
    both = wrong(-torch.inf, torch.float64)
    assert_close("lse", both.float(), both, error=1e-6, rtol=1e-6)
    assert relative_error(both, both) == 0
    nan = wrong(torch.nan, torch.float64)
    with pytest.raises(AssertionError, match="ours nan, oracle nan"):
        assert_close("lse", nan, nan, error=1e9)


def test_shapes_that_differ_are_named():
    with pytest.raises(AssertionError, match=r"out: the shape is \(3, 2\), the oracle's \(2, 3\)"):
        assert_close("out", RIGHT.mT, RIGHT)
