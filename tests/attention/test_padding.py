"""Padding does not count, wherever it stands: real positions get what the same call without it gives them.

Every method there is, with every field drawn: what has no strategy here fails, so that a new field is covered.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings, strategies as st

import multipole_lab as ml
from multipole_lab.attention.method import Method

thoroughly = settings(derandomize=True, deadline=None, max_examples=60, database=None)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

METHODS = [cls for cls in Method.__subclasses__() if cls.__module__.startswith("multipole_lab.attention.")]
FIELDS = {
    "clusters": st.one_of(st.integers(1, 12), st.just("auto")),
    "query_clusters": st.one_of(st.none(), st.integers(1, 12)),
    "cap": st.sampled_from([None, 1.0, 1.5, 4.0]),
    "iterations": st.integers(0, 2),
    "partition": st.sampled_from(["kmeans", "balanced", "runs"]),
    "order": st.sampled_from(["monopole", "dipole"]),
    "levels": st.sampled_from(["separate", "merged"]),
    "dipole_rank": st.sampled_from([None, 1, 2]),
    "near": st.integers(0, 2),
    "near_for": st.sampled_from(["cluster", "query"]),
    "points": st.sampled_from(["own", "earlier"]),
    "budget": st.integers(0, 20),
    "recent": st.integers(0, 5),
    "sinks": st.integers(0, 3),
    "leaf": st.integers(2, 16),
    "seed": st.integers(0, 9),
    "size": st.integers(1, 20),
    "keys": st.integers(1, 20),
    "backend": st.just("torch"),
}


def test_methods_are_found():
    assert {ml.MuSe, ml.Centroid, ml.Window, ml.TopK, ml.Exact} <= set(METHODS)


@st.composite
def methods(draw, cls):
    fields = {field.name: draw(FIELDS[field.name]) for field in dataclasses.fields(cls)}
    if fields.get("near_for") == "query":  # which has no dipole
        fields["order"] = "monopole"
    if fields.get("points") == "earlier":  # which are not those of the leaves
        fields["levels"], fields["dipole_rank"] = "separate", None
    return cls(**fields)


@st.composite
def masks(draw, length):
    """One row: padding on a side or on both, scattered, everywhere or nowhere."""
    keep = torch.ones(length, dtype=torch.bool)
    kind = draw(st.sampled_from(["left", "right", "both", "holes", "none", "all"]))
    if kind == "holes":
        keep = torch.tensor(draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    if kind in ("left", "both"):
        keep[: draw(st.integers(1, length // 2))] = False
    if kind in ("right", "both"):
        keep[length - draw(st.integers(1, length // 2)) :] = False
    return keep & (kind != "all")


def qkv(B, heads, Nq, Nk, D=4, Dv=6, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = (B, heads[0], Nq, D), (B, heads[1], Nk, D), (B, heads[1], Nk, Dv)
    return [torch.randn(shape, generator=g, dtype=dtype).to(DEVICE) for shape in shapes]


def attended(method, q, k, v, dout, dlse, **options) -> list[torch.Tensor]:
    """out, lse and the three gradients for given gradients of both; no gradient where a query is blind."""
    inputs = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out, lse = method(*inputs, return_lse=True, **options)
    seen = lse > -torch.inf
    grads = torch.autograd.grad((out, lse), inputs, (dout, torch.where(seen, dlse, 0.0)), allow_unused=True)
    return [out.detach(), lse.detach(), *grads]


def rows_alone(
    method, q, k, v, dout, dlse, causal, mask
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, list]]:
    """Every row without its padding: its number, its real queries and keys, and what it gets alone."""
    Nq, Nk = q.shape[2], k.shape[2]
    own = causal or Nq == Nk or isinstance(method, ml.Window)
    for row, keep in enumerate(mask):
        keys = keep.nonzero().flatten()
        queries = keep[Nk - Nq :].nonzero().flatten() if own else torch.arange(Nq, device=keep.device)
        if len(keys) == 0 or len(queries) == 0:
            continue
        one = method
        if not causal and isinstance(getattr(method, "clusters", None), int):
            one = replace(method, clusters=min(method.clusters, len(keys)))
        part = [x[row : row + 1, :, i] for x, i in ((q, queries), (k, keys), (v, keys), (dout, queries))]
        yield row, queries, keys, attended(one, *part, dlse[row : row + 1, :, queries], causal=causal)


def check(method, q, k, v, causal, mask, **tolerance):
    g = torch.Generator().manual_seed(1)
    dout = torch.randn(*q.shape[:3], v.shape[-1], generator=g, dtype=q.dtype).to(q)
    dlse = torch.randn(q.shape[:3], generator=g, dtype=q.dtype).to(q)
    alone = list(rows_alone(method, q, k, v, dout, dlse, causal, mask))
    real = torch.zeros(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
    for row, queries, _, _ in alone:
        real[row, queries] = True
    counts = real[:, None].expand(q.shape[:3])  # the loss of padding does not count either
    dout, dlse = torch.where(counts[..., None], dout, 0.0), torch.where(counts, dlse, 0.0)
    together = attended(method, q, k, v, dout, dlse, causal=causal, mask=mask)
    assert not any(x.isnan().any() for x in together)
    for row, queries, keys, expected in alone:
        for name, got, want in zip(("out", "lse", "dq", "dk", "dv"), together, expected, strict=True):
            place = keys if name in ("dk", "dv") else queries
            torch.testing.assert_close(
                got[row, :, place], want[0], **tolerance, msg=lambda m, n=name, r=row: f"{n} of row {r}: {m}"
            )
    for grad in together[3:]:
        assert not grad.masked_select(~mask[:, None, :, None]).any(), "padding got a gradient"


@pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)
@given(data=st.data())
@thoroughly
def test_padding_does_not_count(cls, data):
    method = data.draw(methods(cls))
    causal = data.draw(st.booleans())
    Nk = data.draw(st.integers(12, 40))
    Nq = data.draw(st.one_of(st.just(Nk), st.integers(1, Nk)))
    mask = torch.stack(data.draw(st.lists(masks(Nk), min_size=1, max_size=3))).to(DEVICE)
    heads = data.draw(st.sampled_from([(1, 1), (2, 1), (4, 2)]))
    check(method, *qkv(len(mask), heads, Nq, Nk), causal, mask)


LEFT, RIGHT, HOLES = slice(0, 7), slice(17, 24), slice(3, 20, 5)
KERNELS = {
    "k-means": ml.MuSe(clusters=3, leaf=9),
    "near, sinks": ml.MuSe(clusters=3, leaf=9, near=1, sinks=2, cap=None),
    "runs": ml.MuSe(clusters=3, leaf=9, partition="runs"),
    "balanced": ml.MuSe(clusters="auto", leaf=9, partition="balanced"),
    "dipole": ml.MuSe(clusters=3, leaf=9, order="dipole", dipole_rank=None),
    "centroid": ml.Centroid(clusters=3, leaf=9, sinks=1, budget=5),
}


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("method", KERNELS.values(), ids=KERNELS)
def test_padding_does_not_count_in_the_kernels(method, causal):
    """The forward, which is slow enough where kernels are interpreted; a row alone is what torch makes of it."""
    mask = torch.ones(2, 24, dtype=torch.bool, device=DEVICE)
    mask[0, LEFT if causal else RIGHT] = False
    mask[1, HOLES] = False
    q, k, v = qkv(2, (2, 1), 24, 24, D=16, Dv=16, dtype=torch.float32)
    together = replace(method, backend="triton")(q, k, v, causal=causal, mask=mask, return_lse=True)
    method = replace(method, backend="torch")
    for row, keep in enumerate(mask):
        alone = [x[row : row + 1, :, keep] for x in (q, k, v)]
        for got, want in zip(together, method(*alone, causal=causal, return_lse=True), strict=True):
            torch.testing.assert_close(got[row, :, keep], want[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("padding", [LEFT, RIGHT, HOLES], ids=["left", "right", "holes"])
def test_queries_of_padding_see_what_the_mask_says(padding, causal):
    """A mask is one of keys: the queries beside them still attend, and exactly where every cluster is near."""
    q, k, v = qkv(2, (2, 1), 24, 24)
    mask = torch.ones(2, 24, dtype=torch.bool, device=DEVICE)
    mask[0, padding] = False
    expected = ml.Exact()(q, k, v, causal=causal, mask=mask, return_lse=True)
    for method in (ml.MuSe(clusters=3, near=3, leaf=8), ml.Centroid(clusters=3, budget=24, leaf=8)):
        for got, want in zip(
            method(q, k, v, causal=causal, mask=mask, return_lse=True), expected, strict=True
        ):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("cls", [ml.MuSe, ml.Centroid])
def test_rows_of_one_length_go_together(cls, causal):
    """Six rows of two lengths, in two calls without a mask; a mask without padding in one, on the very tensors."""
    q, k, v = qkv(6, (2, 1), 1, 40)
    method, calls = cls(leaf=8, clusters=3), []

    def noted(self, q, k, v, scale, mask, over=cls._over_past if causal else cls._over_all):
        calls.append((len(k), k.shape[2], mask, k.data_ptr()))
        return over(self, q, k, v, scale, mask)

    with mock.patch.object(cls, "_over_past" if causal else "_over_all", noted):
        method(q, k, v, causal=causal, lengths=[40, 31, 40, 31, 31, 0])
        assert sorted(call[:3] for call in calls) == (
            [(2, 40, None), (3, 31, None)] if not causal else [(2, 40, None)]
        )
        calls.clear()
        method(q, k, v, causal=causal, lengths=[40] * 6)
    assert [call[:3] for call in calls] == [(6, 40, None)]
    if DEVICE == "cpu":  # a GPU is not asked first whether padding holds a NaN: zeros are put there
        assert calls[0][3] == k.data_ptr()
