"""The matrix of a head, asked of a method by its values, and which pairs it sums one by one."""

import numpy as np
import pytest
import torch

import multipole_lab as ml
from multipole_lab.clustering.kmeans import kmeans
from multipole_lab.lessons.matrices import Cells, by_cluster, exact_pairs, share

N, SCALE = 75, 0.4


@pytest.fixture(scope="module")
def head():
    return [torch.randn(1, 1, N, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def cells(count=N, seed=None):
    """Every position a cell of its own, or fewer in a drawn order."""
    rank = np.arange(N) if seed is None else np.random.default_rng(seed).permutation(N)
    return Cells.of(rank, rank[::-1].copy() if seed is not None else rank, count)


@pytest.mark.parametrize("causal", [False, True])
def test_the_matrix_of_exact_attention_is_the_softmax(head, causal):
    q, k, _ = head
    logits = SCALE * q[0, 0] @ k[0, 0].T
    if causal:
        logits = logits.masked_fill(torch.ones(N, N).triu(1).bool(), -torch.inf)
    found = share(ml.Exact(), q, k, cells(), causal, SCALE)
    torch.testing.assert_close(torch.from_numpy(found), logits.softmax(-1))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "method", [ml.MuSe(clusters=5, near=1, leaf=16), ml.MuSe(clusters=4, order="dipole", leaf=16)]
)
def test_the_matrix_times_the_values_is_the_output(head, method, causal):
    q, k, v = head
    found = torch.from_numpy(share(method, q, k, cells(), causal, SCALE))
    torch.testing.assert_close(
        found @ v[0, 0], method(q, k, v, causal=causal, scale=SCALE)[0, 0], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(found.sum(-1), torch.ones(N))


def test_cells_are_sums_of_keys_and_means_of_queries(head):
    q, k, _ = head
    few, fine = cells(10, seed=0), share(ml.Exact(), q, k, cells(), True, SCALE)
    found = share(ml.Exact(), q, k, few, True, SCALE)
    for row, column in ((0, 0), (3, 9), (9, 4)):
        block = fine[few.queries == row][:, few.keys == column]
        assert found[row, column] == pytest.approx(block.sum(1).mean(), abs=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_pairs_are_those_that_a_query_sees_and_all_are_exact_where_all_clusters_are_near(head, causal):
    q, k, _ = head
    few = cells(7, seed=1)
    exact, seen = exact_pairs(ml.MuSe(clusters=4, near=4, leaf=16), q, k, few, causal, SCALE)
    assert seen.sum() == (N * (N + 1) / 2 if causal else N * N)
    np.testing.assert_allclose(exact, seen)
    exact, again = exact_pairs(ml.MuSe(clusters=4, leaf=16), q, k, few, causal, SCALE)
    np.testing.assert_array_equal(again, seen)
    leaf = -(-N // 8)  # of 75 tokens with leaf 16: eight blocks of ten, the last of five
    assert exact.sum() == (7 * leaf * (leaf + 1) / 2 + 15 if causal else 0)


@pytest.mark.parametrize("causal", [False, True])
def test_where_a_pair_is_summed_one_by_one_its_logit_is_exact(head, causal):
    """The ratio of the weights of two such keys is that of exact attention."""
    q, k, _ = head
    method = ml.MuSe(clusters=5, near=2, leaf=16)
    exact, _ = exact_pairs(method, q, k, cells(), causal, SCALE)
    found, right = (share(m, q, k, cells(), causal, SCALE) for m in (method, ml.Exact()))
    off = found / np.where(right > 0, right, 1)  # the same for all such keys of a query
    some = [row for row in range(N) if (exact[row] == 1).sum() > 1]
    assert len(some) > N // 2
    assert max(np.ptp(off[row][exact[row] == 1]) for row in some) < 1e-4


def test_the_members_of_a_cluster_stand_side_by_side(head):
    q, k, _ = head
    asking, asked = (kmeans(x, 6) for x in (q, k))
    ranks = by_cluster(asking, asked, SCALE)
    for rank, found in zip(ranks, (asking, asked), strict=True):
        assert sorted(rank) == list(range(N))
        labels = found.labels[0, 0].numpy()[np.argsort(rank)]
        assert (np.diff(labels) != 0).sum() == 5
