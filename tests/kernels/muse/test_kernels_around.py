"""MuSe around the means of earlier queries by the kernels: what torch computes, results and gradients."""

from dataclasses import replace

import pytest
import torch

import multipole_lab as ml
from multipole_lab.attention.clusters.partition import Partition
from multipole_lab.attention.clusters.points import join_earlier
from multipole_lab.testing import assert_close

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
METHODS = {
    "kmeans": ml.MuSe(clusters=3, leaf=8, points="earlier"),
    "near": ml.MuSe(clusters=3, cap=None, query_clusters=2, near=1, leaf=8, points="earlier"),
    "runs": ml.MuSe(clusters=3, leaf=8, points="earlier", partition="runs"),
    "near for queries, sinks": ml.MuSe(
        clusters=3, near=1, leaf=8, points="earlier", near_for="query", sinks=2
    ),
}


N = 21


def problem():
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, H, N, 16, generator=g).to(DEVICE) for H in (2, 1, 1)]


@pytest.mark.parametrize("name", METHODS)
def test_the_kernels_compute_what_torch_does(name, poisoned):
    """With padding where some keys are near, without where none is."""
    method = METHODS[name]
    padding = torch.arange(N, device=DEVICE) >= torch.tensor([[0], [5]], device=DEVICE)
    mask = padding if method.near else None
    found = []
    for backend in ("triton", "torch"):
        q, k, v = (x.requires_grad_(method.near_for == "cluster") for x in problem())
        out, lse = replace(method, backend=backend)(q, k, v, causal=True, mask=mask, return_lse=True)
        lse = lse.masked_fill(lse.isinf(), 0)
        of_both = out.square().sum() + lse.sum()
        grads = torch.autograd.grad(of_both, (q, k, v)) if q.requires_grad else ()
        found.append((out, lse, *grads))
    for part, got, want in zip(("out", "lse", "dq", "dk", "dv"), *found, strict=False):
        assert_close(part, got.detach(), want.detach(), error=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_nan_reaches_no_other_query_and_the_host_looks_for_none(name, monkeypatch, poisoned):
    """An earlier query that is no number counts as zero in the mean that later ones are expanded around."""
    monkeypatch.setattr("multipole_lab.attention.clustered.finite", lambda *_: pytest.fail("asked the host"))
    method = replace(METHODS[name], backend="triton")
    q, k, v = problem()
    zero, nan = q.clone(), q.clone()
    zero[:, :, 9], nan[:, :, 9] = 0, torch.nan
    want, got = (method(x, k, v, causal=True) for x in (zero, nan))
    rest = torch.arange(N, device=DEVICE) != 9
    assert torch.equal(got[:, :, rest], want[:, :, rest])
    assert got[:, :, 9].isnan().all()


def test_no_query_joins_an_empty_cluster(poisoned):
    """Two different vectors in five clusters: three are empty, before and behind those that are not."""
    g = torch.Generator().manual_seed(1)
    two, q = (torch.randn(1, 3, n, 16, generator=g).to(DEVICE) for n in (2, 9))
    found, counts, *_, order, offsets = join_earlier(
        Partition("kmeans", 5, cap=None), two.repeat_interleave(6, 2), q
    )
    assert (counts == 0).sum() == 3 * 3
    assert (found[..., 0] != found[..., -1]).all()
    labels = torch.where(torch.cdist(q, two).argmin(-1) == 0, found[..., :1], found[..., -1:])
    joined = torch.stack([(labels == i).sum(-1) for i in range(5)], -1)
    assert torch.equal(offsets.diff(), joined)
    assert torch.equal(labels.gather(2, order), labels.sort(-1).values)
