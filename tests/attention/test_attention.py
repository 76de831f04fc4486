"""Methods against exact attention, and exact attention against a float64 formula."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import multipole_lab as ml
from multipole_lab.attention.expansion import summarise

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


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("method", EXACT_BY_CONSTRUCTION.values(), ids=EXACT_BY_CONSTRUCTION)
def test_at_most_twice_the_error_of_torch(method, dtype, causal):
    """Causal in blocks of four, so that several merges in that dtype add up."""
    if causal and hasattr(method, "leaf"):
        method = replace(method, leaf=4)
    q, k, v = qkv(2, 4, 2, 29, 29, 6, 10, dtype)
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
    torch.testing.assert_close(lse.double(), exact_lse, rtol=4 * eps, atol=atol)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("scale", [0.0, 0.1, 2.5, -1.0])
@pytest.mark.parametrize("method", EXACT_BY_CONSTRUCTION.values(), ids=EXACT_BY_CONSTRUCTION)
def test_scale(method, scale, causal):
    q, k, v = qkv(1, 2, 1, 29, 29, 6, 10)
    out, lse = method(q, k, v, causal=causal, scale=scale, return_lse=True)
    expected, expected_lse = formula(q * scale * math.sqrt(6), k, v, causal)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)


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
    q, k, v = qkv(3, 2, 1, 20, 29, 6, 10)
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
    q, k, v = qkv(2, 4, 2, 12, 40, 6, 10)
    method = ml.MuSe(clusters=12, cap=1.0, near=near, order=order)
    for got, expected in zip(method(q, k, v, return_lse=True), formula(q, k, v), strict=True):
        torch.testing.assert_close(got, expected)


def test_summaries_are_the_derivatives_they_are_named_for():
    """The first derivative of a_j at p is s k~_j; that of v~_j is s times the dipole M_j."""
    s, (p, k, v) = 0.7, qkv(1, 1, 1, 1, 5, 4, 3)
    p, k, v = p[0], k[0][None], v[0][None]  # one point, one cluster: [R, I, D], [R, J, Mk, .]
    filled = torch.tensor([[[True, True, True, True, False]]])
    a, k_tilted, v_tilted = summarise(p, k, v, filled, s)
    w = (s * k[0, 0, :4] @ p[0, 0] - a).exp()[0, 0]
    assert w.sum().item() == pytest.approx(1)
    by_a, _, by_v = torch.autograd.functional.jacobian(lambda p: summarise(p, k, v, filled, s), p)
    torch.testing.assert_close(by_a.flatten(), s * k_tilted.flatten())
    centred = v[0, 0, :4] - v_tilted.flatten(), k[0, 0, :4] - k_tilted.flatten()
    M = torch.einsum("n,ne,nd->ed", w, *centred)  # [Dv, D]
    torch.testing.assert_close(by_v.reshape(3, 4), s * M)


@pytest.mark.parametrize("keys", [1, 5])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_top_k_one_query_at_a_time(causal, keys):
    q, k, v = qkv(1, 2, 1, 9, 20, 4, 5)
    mask = torch.arange(20)[None] != 7
    out, lse = ml.TopK(keys=keys)(q, k, v, causal=causal, mask=mask, return_lse=True)
    for h in range(2):
        for t in range(9):
            logits = (k[0, 0] @ q[0, h, t] / 2).masked_fill(~mask[0], -torch.inf)
            logits = logits[: 20 - 9 + t + 1] if causal else logits
            best = logits.sort(descending=True).indices[:keys]
            torch.testing.assert_close(out[0, h, t], logits[best].softmax(0) @ v[0, 0, best])
            torch.testing.assert_close(lse[0, h, t], logits[best].logsumexp(0))


@pytest.mark.parametrize(("budget", "sinks", "recent"), [(0, 0, 0), (9, 0, 0), (9, 2, 4), (15, 1, 0)])
def test_centroid_one_query_at_a_time(budget, sinks, recent):
    """Sinks and recent keys exactly, of the rest the clusters of largest mass while they fit, then centroids."""
    q, k, v = qkv(1, 2, 1, 9, 30, 4, 5)
    method = ml.Centroid(clusters=5, budget=budget, sinks=sinks, recent=recent)
    out, lse = method(q, k, v, return_lse=True)
    old = slice(sinks, 30 - recent)
    labels = ml.kmeans(k[:, :, old], clusters=5, cap=1.5, iterations=1, seed=0).labels[0, 0]
    members = [(labels == j).nonzero().flatten() + sinks for j in range(5)]
    members = [n for n in members if len(n)]
    centroids = torch.stack([k[0, 0, n].mean(0) for n in members])
    values = torch.stack([v[0, 0, n].mean(0) for n in members])
    sizes = torch.tensor([len(n) for n in members], dtype=torch.float64)
    summed = set()
    for h in range(2):
        for t in range(9):
            a = sizes.log() + centroids @ q[0, h, t] / 2
            exact, room, far = [*range(sinks), *range(30 - recent, 30)], budget, a.clone()
            for j in a.argsort(descending=True).tolist():
                if len(members[j]) > room:
                    break
                room -= len(members[j])
                exact += members[j].tolist()
                far[j] = -torch.inf
            summed.add(len(exact))
            logits = torch.cat([far, k[0, 0, exact] @ q[0, h, t] / 2])
            expected = logits.softmax(0) @ torch.cat([values, v[0, 0, exact]])
            torch.testing.assert_close(out[0, h, t], expected)
            torch.testing.assert_close(lse[0, h, t], logits.logsumexp(0))
    assert max(summed) - sinks - recent in ([0] if budget == 0 else range(budget // 2, budget + 1))


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
