"""Clusters of larger blocks from those of the leaves."""

import pytest
import torch

import multipole_lab as ml
from multipole_lab.clustering.capped import capacity
from multipole_lab.clustering.kmeans import kmeans_labels
from multipole_lab.clustering.merging import merged_labels
from multipole_lab.models import load_sample
from multipole_lab.testing.methods import expected


def leaves(x, block, clusters, cap=1.5):
    return kmeans_labels(x[None].unflatten(2, (-1, block)).flatten(1, 2), clusters, 1, cap).view(x.shape[:2])


@pytest.mark.parametrize("cap", [1.0, 1.5])
def test_a_cap_of_the_leaves_holds_at_every_level(cap):
    x = torch.randn(2, 8 * 30, 16, generator=torch.Generator().manual_seed(0))
    labels = merged_labels(x, leaves(x, 30, 7, cap), 7, 30)
    assert labels.shape == (3, 2, 240)
    for level, of_level in enumerate(labels):
        counts = torch.nn.functional.one_hot(of_level.unflatten(1, (-1, 30 << level)), 7).sum(-2)
        assert counts.max() <= capacity(30, 7, cap) << level


def test_a_cluster_is_one_of_each_half():
    x = torch.randn(1, 4 * 20, 8, generator=torch.Generator().manual_seed(1))
    own = leaves(x, 20, 5)
    merged = merged_labels(x, own, 5, 20)[1]
    for block in range(2):
        for half in range(2):
            part = slice((2 * block + half) * 20, (2 * block + half + 1) * 20)
            pairs = {(int(a), int(b)) for a, b in zip(own[0, part], merged[0, part], strict=True)}
            assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_clusters_that_mean_the_same_join():
    g = torch.Generator().manual_seed(2)
    kind = torch.arange(4).repeat(4 * 5)  # 20 vectors a leaf, of four kinds
    x = 10 * torch.randn(4, 8, generator=g)[kind] + torch.randn(80, 8, generator=g)
    named = torch.stack([torch.randperm(4, generator=g) for _ in range(4)])  # each leaf has names of its own
    own = named[torch.arange(80) // 20, kind]
    merged = merged_labels(x[None], own[None], 4, 20)[1, 0]
    for block in (slice(0, 40), slice(40, 80)):
        assert len({(int(a), int(b)) for a, b in zip(merged[block], kind[block], strict=True)}) == 4


def test_padding_stays_in_no_cluster():
    x = torch.randn(1, 4 * 10, 8, generator=torch.Generator().manual_seed(3))
    own = leaves(x, 10, 3)
    own[0, 25:] = -1
    assert torch.equal(merged_labels(x, own, 3, 10) < 0, (own < 0).expand(2, 1, -1))


@pytest.mark.parametrize(
    "settings", [{}, {"near": 2, "sinks": 3}, {"order": "dipole"}, {"cap": None}], ids=str
)
@pytest.mark.parametrize("queries", [150, 90])
def test_merged_levels_are_what_the_oracle_makes_of_their_clusters(settings, queries):
    g = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(1, h, n, 16, generator=g) for h, n in ((4, queries), (2, 150), (2, 150)))
    method = ml.MuSe(clusters=8, leaf=40, levels="merged", **settings)
    out, lse = method(q, k, v, causal=True, return_lse=True)
    wanted, wanted_lse = expected(method, q, k, v, causal=True)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-4, atol=1e-4)


def test_all_clusters_near_is_exact_also_with_a_mask():
    g = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, 2, 130, 16, generator=g) for _ in "qkv")
    mask = torch.rand(2, 130, generator=g) > 0.3
    method = ml.MuSe(clusters=6, leaf=40, near=6, levels="merged")
    for kept in (None, mask):
        got, exact = (m(q, k, v, causal=True, mask=kept) for m in (method, ml.Exact()))
        torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-5)


def test_on_real_tokens_merging_costs_less_than_half_of_the_clusters():
    data = load_sample("smollm2")[15]
    q, k, v = data.q[:, :3].float(), data.k[:, :1].float(), data.v[:, :1].float()
    exact = ml.Exact()(q, k, v, causal=True)

    def error(**settings):
        out = ml.MuSe(leaf=512, **settings)(q, k, v, causal=True)
        return ml.relative_squared_error(out, exact).item()

    assert error(levels="merged") < error(clusters=32)
