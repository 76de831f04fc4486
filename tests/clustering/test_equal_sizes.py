"""Balanced and runs: clusters of one size, along which axis, whatever comes."""

import pytest
import torch
from small.vectors import POISON, assert_partition, blobs

import multipole_lab as ml
from multipole_lab.clustering import induced_metric


@pytest.mark.parametrize("make", [ml.balanced, ml.runs], ids=["balanced", "runs"])
@pytest.mark.parametrize(
    ("N", "size"), [(256, 32), (257, 32), (100, 16), (33, 32), (31, 32), (1, 1), (9, 1), (5, 8)], ids=str
)
def test_all_sizes_are_equal_but_one_remainder(make, N, size):
    x = blobs(2, 2, N, 5)
    clusters = make(x, size=size)
    expected = [size] * (N // size) + ([N % size] if N % size else [])
    for counts in clusters.counts.view(4, -1).tolist():
        assert sorted(counts, reverse=True) == expected
    assert_partition(x, clusters)


@pytest.mark.parametrize("make", [ml.balanced, ml.runs], ids=["balanced", "runs"])
def test_equal_size_partitions_leave_padding_out(make):
    x = blobs(3, 2, 70, 4)
    mask = torch.ones(3, 70, dtype=torch.bool)
    mask[1, 40:] = False
    mask[2] = False
    clusters = make(x, size=16, mask=mask)
    assert_partition(x, clusters, mask)
    assert clusters.counts.max() <= 16
    assert clusters.counts[2].sum() == 0


def test_runs_are_neighbours():
    clusters = ml.runs(blobs(1, 1, 10, 2), size=4)
    assert clusters.labels.flatten().tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_balanced_splits_along_the_principal_axis():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=g) * torch.tensor([0.01, 10.0, 0.1])
    labels = ml.balanced(x[None, None], size=32).labels[0, 0]
    upper = x[:, 1].argsort()[32:]
    assert len(labels[upper].unique()) == 1
    assert len(labels.unique()) == 2


def test_a_metric_changes_the_axis():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 2, generator=g) * torch.tensor([10.0, 0.1])
    metric = torch.diag(torch.tensor([1e-8, 1e4])).view(1, 1, 2, 2)  # the second coordinate matters
    labels = ml.balanced(x[None, None], size=32, metric=metric).labels[0, 0]
    assert len(labels[x[:, 1].argsort()[32:]].unique()) == 1
    euclidean = ml.balanced(x[None, None], size=32, metric=torch.eye(2).view(1, 1, 2, 2)).labels
    assert torch.equal(euclidean, ml.balanced(x[None, None], size=32).labels)


def test_the_induced_metric_is_the_gram_matrix_of_the_other_side():
    q, k = blobs(1, 6, 20, 3), blobs(1, 2, 30, 3)
    of_keys = induced_metric(q, heads=2)
    expected = sum(q[0, h].T @ q[0, h] for h in range(3))
    torch.testing.assert_close(of_keys[0, 0], expected)
    of_queries = induced_metric(k, heads=6, centre=True)
    centred = k[0, 1] - k[0, 1].mean(0)
    for h in (3, 4, 5):
        torch.testing.assert_close(of_queries[0, h], centred.T @ centred)


@pytest.mark.parametrize("bad", POISON.values(), ids=POISON)
@pytest.mark.parametrize("share", [1, 3, 40], ids=["all bad", "a third bad", "one bad"])
def test_balanced_and_runs_finish_whatever_comes(bad, share):
    x = blobs(1, 2, 39, 4)
    x[:, :, ::share] = bad
    for make in (ml.balanced, ml.runs):
        for counts in make(x, size=8).counts[0].tolist():
            assert sorted(counts, reverse=True) == [8, 8, 8, 8, 7]
