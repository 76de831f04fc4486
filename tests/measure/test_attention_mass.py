"""Weights read off a method, and the mass they share with exact attention."""

import pytest
import torch

import multipole_lab as ml
from multipole_lab.measure.attention_mass import mass_overlap, mass_recall, method_weights


@pytest.fixture
def qk():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 4, 150, 16, generator=generator), torch.randn(1, 2, 150, 16, generator=generator)
    return 2 * q, k


def exact_weights(q, k, causal):
    logits = q @ k.repeat_interleave(2, 1).mT / 4
    if causal:
        logits = logits.masked_fill(~torch.ones(150, 150, dtype=torch.bool).tril(), -torch.inf)
    return logits.softmax(-1)


METHODS = [
    ml.Exact(),
    ml.Window(size=20, sinks=3),
    ml.TopK(keys=9),
    ml.Centroid(clusters=12, budget=30, leaf=32),
    ml.MuSe(clusters=8, near=2, leaf=32, sinks=2),
    ml.MuSe(clusters=8, order="dipole", leaf=32),
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_the_weights_are_what_the_method_multiplies_values_by(qk, method, causal):
    q, k = qk
    v = torch.randn(1, 2, 150, 5, generator=torch.Generator().manual_seed(1))
    weights, lse = method_weights(method, q, k, causal=causal)
    out, expected = method(q, k, v, causal=causal, return_lse=True)
    torch.testing.assert_close(weights @ v.repeat_interleave(2, 1), out, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(lse, expected)


@pytest.mark.parametrize("causal", [False, True])
def test_exact_attention_has_all_the_mass(qk, causal):
    q, k = qk
    weights, _ = method_weights(ml.Exact(), q, k, [149, 3], causal=causal)
    torch.testing.assert_close(weights, exact_weights(q, k, causal)[:, :, [149, 3]], rtol=1e-4, atol=1e-6)
    for measure in (mass_recall, mass_overlap):
        got = measure(ml.Exact(), q, k, causal=causal)
        torch.testing.assert_close(got, torch.ones_like(got), rtol=0, atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_selecting_methods_have_the_mass_of_what_they_select(qk, causal):
    q, k = qk
    exact = exact_weights(q, k, causal).double()
    got = mass_recall(ml.TopK(keys=9), q, k, causal=causal)
    torch.testing.assert_close(got, exact.topk(9).values.sum(-1), rtol=1e-3, atol=1e-4)
    # What is dropped goes to the selected keys, so their exact mass is also all that overlaps.
    torch.testing.assert_close(mass_overlap(ml.TopK(keys=9), q, k, causal=causal), got, rtol=1e-3, atol=1e-4)


def test_the_near_field_and_the_leaf_are_summed_exactly_and_the_rest_is_not(qk):
    q, k = qk
    recall = [mass_recall(ml.MuSe(clusters=8, near=near), q, k).mean().item() for near in (0, 2, 8)]
    assert recall[0] < 0.1 < recall[1] < 0.99
    assert recall[2] == pytest.approx(1, abs=1e-4)
    leaf = mass_recall(ml.MuSe(clusters=8, leaf=75), q, k, causal=True)
    torch.testing.assert_close(leaf[:, :, :75], torch.ones_like(leaf[:, :, :75]), rtol=0, atol=1e-4)
    assert leaf[:, :, 75:].mean() < 0.95


def test_overlap_is_between_nothing_and_everything(qk):
    q, k = qk
    overlap = mass_overlap(ml.MuSe(clusters=8), q, k)
    assert overlap.shape == (1, 4, 150)
    assert overlap.min() > 0
    assert overlap.max() < 1
    near = mass_overlap(ml.MuSe(clusters=8, near=4), q, k)
    assert near.mean() > overlap.mean()


def test_a_query_that_is_not_there_is_named(qk):
    with pytest.raises(ValueError, match="beyond 0 to 149"):
        mass_recall(ml.Exact(), *qk, [150])
