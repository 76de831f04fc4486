"""Methods against exact attention by the oracle, in float64."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import multipole_lab as ml
from multipole_lab.attention.exact import exact_partial
from multipole_lab.attention.expansion import summarise
from multipole_lab.testing import assert_close, expected, oracle, qkv

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


def formula(q, k, v, causal=False, mask=None, scale=None):
    """Exact attention in float64."""
    k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    seen = oracle.visible(q.shape[2], k.shape[2], causal, None if mask is None else mask[:, None])
    return oracle.exact(q.double(), k, v, q.shape[-1] ** -0.5 if scale is None else scale, seen)


def check(got, wanted, **limits):
    for name, ours, exact in zip(("out", "lse"), got, wanted, strict=True):
        assert_close(name, ours, exact, **limits)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("heads", [(1, 1), (4, 2), (3, 1)], ids=["G1", "G2", "G3"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("method", EXACT_BY_CONSTRUCTION.values(), ids=EXACT_BY_CONSTRUCTION)
def test_identities_hold_to_rounding(method, heads, causal, padded):
    q, k, v = qkv(2, heads, 23, 29, 6, 10)
    mask = None
    if padded:  # the second entry sees nothing at all
        mask = torch.ones(2, 29, dtype=torch.bool)
        mask[0, 20:] = False
        mask[1] = False
    got = method(q, k, v, causal=causal, mask=mask, return_lse=True)
    check(got, formula(q, k, v, causal, mask))


def test_a_merge_of_any_split_is_exact():
    q, k, v = qkv(1, (2, 2), 7, 12, 4, 3)
    parts = [ml.Exact()(q, k[:, :, a:b], v[:, :, a:b], return_lse=True) for a, b in ((0, 1), (1, 9), (9, 12))]
    check(ml.merge(parts), formula(q, k, v))


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(
    "shape", [(20, 20, False), (9, 20, False), (20, 9, False), (20, 20, True), (9, 20, True)]
)
def test_a_window_sees_its_band_and_the_sinks(shape, size):
    Nq, Nk, causal = shape
    q, k, v = qkv(1, (2, 1), Nq, Nk, 4, 5)
    method = ml.Window(size=size, sinks=3)
    check(method(q, k, v, causal=causal, return_lse=True), expected(method, q, k, v, causal=causal))


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("method", EXACT_BY_CONSTRUCTION.values(), ids=EXACT_BY_CONSTRUCTION)
def test_at_most_twice_the_error_of_torch(method, dtype, causal):
    """Causal in blocks of four, so that several merges in that dtype add up."""
    if causal and hasattr(method, "leaf"):
        method = replace(method, leaf=4)
    q, k, v = qkv(2, (4, 2), 29, 29, 6, 10, dtype=dtype)
    out, lse = method(q, k, v, causal=causal, return_lse=True)
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    exact, exact_lse = formula(q, k, v, causal)
    fused = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    eps = torch.finfo(torch.float32).eps
    for size in (torch.linalg.vector_norm, lambda x: x.abs().max()):
        assert size(out - exact) <= 2 * size(fused - exact) + eps
    # In half precision torch's fused kernel takes a faster exponential, and its log-sum-exp shows it.
    atol = 4 * eps if dtype == torch.float32 else 1e-4
    assert_close("lse", lse, exact_lse, rtol=4 * eps, atol=atol)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("scale", [0.0, 0.1, 2.5, -1.0])
@pytest.mark.parametrize("method", EXACT_BY_CONSTRUCTION.values(), ids=EXACT_BY_CONSTRUCTION)
def test_scale(method, scale, causal):
    q, k, v = qkv(1, (2, 1), 29, 29, 6, 10)
    check(method(q, k, v, causal=causal, scale=scale, return_lse=True), formula(q, k, v, causal, scale=scale))


APPROXIMATE = {
    "MuSe": ml.MuSe(clusters=4, leaf=8, near=1, sinks=1),
    "Centroid": ml.Centroid(clusters=4, leaf=8, budget=6),
    "TopK": ml.TopK(keys=3),
    "Window": ml.Window(size=5, sinks=1),
}


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize(
    "method", [*EXACT_BY_CONSTRUCTION.values(), *APPROXIMATE.values()],
    ids=[*EXACT_BY_CONSTRUCTION, *APPROXIMATE],
)  # fmt: skip
def test_lengths_are_a_mask(method, causal):
    q, k, v = qkv(3, (2, 1), 20, 29, 6, 10)
    mask = torch.arange(29) < torch.tensor([[29], [0], [17]])
    expected = method(q, k, v, causal=causal, mask=mask, return_lse=True)
    for lengths in (torch.tensor([29, 0, 17]), [29, 0, 17]):
        got = method(q, k, v, causal=causal, lengths=lengths, return_lse=True)
        for x, y in zip(got, expected, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)
    four = method(q, k, v, causal=causal, mask=mask[:, None, None], return_lse=True)
    for x, y in zip(four, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("order", ["monopole", "dipole"])
@pytest.mark.parametrize("near", [0, 2])
def test_one_query_a_cluster_is_exact(near, order):
    """Every query is its own expansion point; 12 clusters for 12 queries, and for 40 keys."""
    q, k, v = qkv(2, (4, 2), 12, 40, 6, 10)
    method = ml.MuSe(clusters=12, cap=1.0, near=near, order=order)
    check(method(q, k, v, return_lse=True), formula(q, k, v))


def test_summaries_are_the_derivatives_they_are_named_for():
    """The first derivative of a_j at p is s k~_j; that of v~_j is s times the dipole M_j."""
    s, (p, k, v) = 0.7, qkv(1, (1, 1), 1, 5, 4, 3)
    p, k, v = p[0], k[0][None], v[0][None]  # one point, one cluster: [R, I, D], [R, J, Mk, .]
    filled = torch.tensor([[[True, True, True, True, False]]])
    a, k_tilted, v_tilted = summarise(p, k, v, filled, s)
    at = oracle.summary(p[0, 0], k[0, 0, :4], v[0, 0, :4], s)
    for name, ours, wanted in (("a", a, at.mass), ("k~", k_tilted, at.key), ("v~", v_tilted, at.value)):
        assert_close(name, ours.flatten(), wanted.flatten())
    by_a, _, by_v = torch.autograd.functional.jacobian(lambda p: summarise(p, k, v, filled, s), p)
    assert_close("k~", k_tilted.flatten(), by_a.flatten() / s)
    assert_close("M", by_v.reshape(3, 4) / s, oracle.dipole(p[0, 0], k[0, 0, :4], v[0, 0, :4], s))


@pytest.mark.parametrize("keys", [1, 5])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_top_k_without_a_masked_key(causal, keys):
    q, k, v = qkv(1, (2, 1), 9, 20, 4, 5)
    method, kept = ml.TopK(keys=keys), torch.arange(20) != 7
    got = method(q, k, v, causal=causal, mask=kept[None], return_lse=True)
    check(got, expected(method, q, k[:, :, kept], v[:, :, kept], causal=causal))


@pytest.mark.parametrize(("budget", "sinks", "recent"), [(0, 0, 0), (9, 0, 0), (9, 2, 4), (15, 1, 0)])
def test_centroid_with_sinks_and_recent_keys(budget, sinks, recent):
    """Sinks and recent keys exactly, of the rest the clusters of largest mass while they fit, then centroids."""
    q, k, v = qkv(1, (2, 1), 9, 30, 4, 5)
    method = ml.Centroid(clusters=5, budget=budget, sinks=sinks, recent=recent)
    got = method(q, k, v, return_lse=True)
    check(got, expected(method, q, k, v))
    if budget:  # it buys something
        without = replace(method, budget=0)(q, k, v)
        assert (got[0] - without).norm() > 1e-3 * got[0].norm()


@pytest.mark.parametrize("blind", [(True, False), (False, True), (True, True)], ids=str)
def test_a_merge_with_partials_that_saw_nothing_has_finite_gradients(blind):
    outs = [torch.randn(2, 3, requires_grad=True) for _ in blind]
    lses = [torch.randn(2, requires_grad=True) for _ in blind]
    partials = [
        (o, torch.where(torch.tensor([b, False]), -torch.inf, x))
        for b, o, x in zip(blind, outs, lses, strict=True)
    ]
    out, lse = ml.merge(partials)
    assert lse[0].isinf() == all(blind)
    for grad in torch.autograd.grad(out.sum() + lse.masked_fill(lse.isinf(), 0).sum(), [*outs, *lses]):
        assert grad.isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
def test_exact_attention_of_grouped_heads_copies_no_keys(masked, monkeypatch):
    """The queries of a group are rows of one head: the same numbers and gradients as with a copy for each."""
    g = torch.Generator().manual_seed(0)
    shapes = (2, 6, 5, 16), (2, 2, 37, 16), (2, 2, 37, 12)
    q, k, v = (torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes)
    mask = torch.rand(2, 37, generator=g) < 0.7 if masked else None
    copied = exact_partial(q, *(x.repeat_interleave(3, 1) for x in (k, v)), 0.3, mask=mask)
    monkeypatch.setattr(torch.Tensor, "repeat_interleave", None)
    got = exact_partial(q, k, v, 0.3, mask=mask)
    monkeypatch.undo()
    losses = [out.sin().sum() + lse.cos().sum() for out, lse in (got, copied)]
    grads = [torch.autograd.grad(loss, (q, k, v)) for loss in losses]
    for one, other in zip((*got, *grads[0]), (*copied, *grads[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_merge_refuses_nothing_and_shapes_that_disagree():
    with pytest.raises(ValueError, match=r"partials is empty; at least one \(out, lse\) is needed"):
        ml.merge([])
    with pytest.raises(
        ValueError, match=r"partials disagree: out \(1, 6, 5\) with lse \(1, 7\).*\(1, 6, 5\)"
    ):
        ml.merge([(torch.zeros(1, 6, 5), torch.zeros(1, 6)), (torch.zeros(1, 6, 5), torch.zeros(1, 7))])
