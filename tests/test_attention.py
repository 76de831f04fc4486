"""Methods against exact attention, and exact attention against a float64 formula."""

import math

import pytest
import torch

import multipole_lab as ml

EXACT_BY_CONSTRUCTION = {
    "Exact": ml.Exact(),
    "MuSe near all": ml.MuSe(clusters=5, near=5),
    "MuSe dipole near all": ml.MuSe(clusters=5, near=5, order="dipole"),
    "MuSe one key a cluster": ml.MuSe(clusters=29, cap=1.0),
    "Centroid one key a cluster": ml.Centroid(clusters=29, cap=1.0),
    "Centroid budget all": ml.Centroid(clusters=5, budget=29),
    "TopK all": ml.TopK(keys=29),
    "Window all": ml.Window(size=64, sinks=0),
}


def qkv(B, Hq, Hk, Nq, Nk, D, Dv, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = (B, Hq, Nq, D), (B, Hk, Nk, D), (B, Hk, Nk, Dv)
    return [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]


def formula(q, k, v, causal=False, mask=None):
    """Softmax attention and its log-sum-exp, written out in float64; a query without keys gets 0 and -inf."""
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    logits = q @ k.mT / math.sqrt(q.shape[-1])
    Nq, Nk = logits.shape[-2:]
    if causal:
        logits = logits.masked_fill(~torch.ones(Nq, Nk, dtype=torch.bool).tril(Nk - Nq), -torch.inf)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None], -torch.inf)
    return logits.softmax(-1).nan_to_num(0.0) @ v, logits.logsumexp(-1)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("heads", [(1, 1), (4, 2), (3, 1)], ids=["G1", "G2", "G3"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("method", EXACT_BY_CONSTRUCTION.values(), ids=EXACT_BY_CONSTRUCTION)
def test_identities_hold_to_rounding(method, heads, causal, padded):
    q, k, v = qkv(2, *heads, 23, 29, 6, 10)
    mask = None
    if padded:  # the second entry sees nothing at all
        mask = torch.ones(2, 29, dtype=torch.bool)
        mask[0, 20:] = False
        mask[1] = False
    out, lse = method(q, k, v, causal=causal, mask=mask, return_lse=True)
    expected, expected_lse = formula(q, k, v, causal, mask)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)


def test_a_merge_of_any_split_is_exact():
    q, k, v = qkv(1, 2, 2, 7, 12, 4, 3)
    parts = [ml.Exact()(q, k[:, :, a:b], v[:, :, a:b], return_lse=True) for a, b in ((0, 1), (1, 9), (9, 12))]
    out, lse = ml.merge(parts)
    for got, expected in zip((out, lse), formula(q, k, v), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("shape", [(20, 20), (9, 20), (20, 9)], ids=str)
def test_a_window_sees_its_band_and_the_sinks(shape, causal, size):
    Nq, Nk = shape
    if causal and Nq > Nk:
        pytest.skip("causal queries are the last positions")
    q, k, v = qkv(1, 2, 1, Nq, Nk, 4, 5)
    position, column = torch.arange(Nq)[:, None] + Nk - Nq, torch.arange(Nk)
    ahead = 0 if causal else size - size // 2 - 1
    seen = (column > position + ahead - size) & (column <= position + ahead) | (column < 3)
    seen = seen & (column <= position) if causal else seen
    bias = torch.zeros(Nq, Nk, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    expected = ((q @ k.mT / 2 + bias).softmax(-1)) @ v
    torch.testing.assert_close(ml.Window(size=size, sinks=3)(q, k, v, causal=causal), expected)
