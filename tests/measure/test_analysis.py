"""Errors by hand-made numbers, and turns that interleave."""

import itertools
import math

import pytest
import torch

from multipole_lab.attention import Exact
from multipole_lab.measure import (
    cosine,
    interleaved,
    lengths,
    loss_difference,
    next_token_kl,
    per_head_error,
    per_query_error,
    relative_squared_error,
    worst_token,
)
from multipole_lab.measure.inputs import Load
from multipole_lab.models.samples.sample import LayerSample


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


def test_one_turn_that_had_to_wait_does_not_become_the_time_of_its_length(monkeypatch):
    clock = iter([2000.0] + [4.0] * 100)  # the first turn, and all others
    monkeypatch.setattr(lengths, "interleaved", lambda sides, **_: dict.fromkeys(sides, next(clock)))
    layer = LayerSample(*torch.randn(3, 1, 1, 8, 4))
    paces = [pace for pace in lengths.time_lengths(layer, [8], Exact(), seconds=0.1) if pace]
    assert [(pace.exact_ms, pace.approx_ms) for pace in paces] == [(4.0, 4.0)]


def test_a_load_has_heads_and_texts_of_its_own_and_draws_tokens_again_beyond_the_end():
    layer = LayerSample(torch.randn(1, 4, 20, 8), *torch.randn(2, 1, 2, 20, 8))
    q, k, v = Load(heads=6, batch=3).of(layer, 12, "cpu")
    assert q.shape == k.shape == v.shape == (3, 6, 12, 8)
    assert torch.equal(q[2, 5], layer.q[0, 1, :12])
    assert torch.equal(k[1, 3], layer.k[0, 1, :12])
    q, k, v = Load().of(layer, 50, "cpu")
    assert (q.shape, k.shape) == ((1, 4, 50, 8), (1, 2, 50, 8))
    asked = []

    def method(q, k, v, causal, scale):
        asked.append((q.shape[:3], causal))
        return Exact()(q, k, v, causal=causal, scale=scale)

    paces = lengths.time_lengths(layer, [16, 40], method, seconds=0.0, device="cpu", load=Load(5, 2, True))
    near, far = filter(None, paces)
    assert near.rse < 1e-9
    assert math.isnan(far.rse)
    assert math.isnan(far.exact_device_ms)
    assert set(asked) == {((2, 5, 16), True), ((2, 5, 40), True)}


def test_turns_are_measured_again_until_they_agree_and_their_spread_is_told(monkeypatch):
    def paced(*ms):
        clock = itertools.cycle(ms)
        monkeypatch.setattr(lengths, "interleaved", lambda sides, **_: dict.fromkeys(sides, next(clock)))
        steps = list(
            lengths.time_lengths(LayerSample(*torch.randn(3, 1, 1, 8, 4)), [8], Exact(), seconds=0.1)
        )
        return steps[-1], len(steps) - 1  # a None for every turn

    pace, turns = paced(10.0)
    assert (turns, pace.exact_range) == (5, (10.0, 10.0))
    pace, turns = paced(10.0, 20.0)
    assert turns == 15
    assert (pace.exact_range, pace.approx_range) == ((10.0, 20.0), (10.0, 20.0))


def test_the_worst_token_is_where_the_error_is():
    exact = torch.ones(2, 3, 10, 4)
    approx = exact.clone()
    approx[1, 2, 7] += 3
    approx[1, 2, 4] += 1
    value, position = worst_token(approx, exact)
    assert position[1, 2] == 7
    assert value[1, 2] == 9.0
    assert value.sum() == 9.0
    approx[0, 0, 5] = math.nan
    assert worst_token(approx, exact)[1][0, 0] == 5


def test_cosine_is_of_directions_only():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    y = torch.tensor([[30.0, 40.0], [0.0, 0.0], [1.0, 1.0], [-2.0, 0.0]])
    assert cosine(x, y).tolist() == [1.0, 1.0, 0.0, -1.0]
    assert cosine(x * math.nan, y).isnan().all()


def test_loss_difference_and_divergence_by_hand():
    exact = torch.tensor([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]).log()
    approx = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]).log()
    targets = torch.tensor([0, 1, 0])
    got = loss_difference(approx + 3.0, exact, targets)  # logits, so a constant changes nothing
    torch.testing.assert_close(got, torch.tensor([2.0, 1.0, 2.0]).double().log(), rtol=0, atol=1e-6)
    expected = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.0, math.log(2)]
    torch.testing.assert_close(
        next_token_kl(approx, exact + 1.0), torch.tensor(expected).double(), rtol=0, atol=1e-6
    )
    assert (next_token_kl(exact, exact) == 0).all()


def test_a_divergence_is_never_negative():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50, 30, generator=generator).unbind()
    assert (next_token_kl(a, b) > 0).all()


@pytest.mark.parametrize("measure", [cosine, next_token_kl, worst_token])
def test_shapes_that_differ_are_named(measure):
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        measure(torch.zeros(2, 3), torch.zeros(2, 4))
