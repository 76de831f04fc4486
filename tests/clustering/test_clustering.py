"""K-means against scikit-learn, its cap against plain Python; what has one size has a file of its own."""

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from small.vectors import POISON, assert_partition, blobs

import multipole_lab as ml
from multipole_lab.clustering import inertia
from multipole_lab.clustering.capped import capacity, capped_assignment
from multipole_lab.clustering.clusters import Clusters

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}


@pytest.mark.parametrize("iterations", [0, 1, 2, 10])
@pytest.mark.parametrize(("N", "D", "C"), [(300, 5, 7), (1023, 64, 33), (64, 16, 64)], ids=str)
def test_kmeans_is_scikit_learns_label_for_label(N, D, C, iterations):
    x = blobs(1, 1, N, D, torch.float64)
    start = x[:, :, torch.randperm(N, generator=torch.Generator().manual_seed(1))[:C]]
    ours = ml.kmeans(x, clusters=C, iterations=iterations, init=start)
    theirs = KMeans(C, init=start[0, 0].numpy(), n_init=1, max_iter=max(1, iterations), tol=0)
    theirs.fit(x[0, 0].numpy())
    if iterations == 0:  # scikit-learn iterates at least once
        labels = torch.cdist(x[0, 0], start[0, 0]).argmin(-1)
    else:
        labels = torch.from_numpy(theirs.labels_).long()
        assert math.isclose(inertia(x, ours).item(), _own_inertia(x, labels, C), rel_tol=1e-9)
    assert torch.equal(ours.labels[0, 0], labels)


def _own_inertia(x, labels, C):
    return inertia(x, Clusters.from_labels(x, labels[None, None], C)).item()


def test_kmeans_in_single_precision_differs_from_scikit_learn_in_near_ties_only():
    x = blobs(1, 1, 2000, 64)
    start = x[:, :, ::63][:, :, :31]
    ours = ml.kmeans(x, clusters=31, iterations=3, init=start)
    theirs = KMeans(31, init=start[0, 0].numpy(), n_init=1, max_iter=3, tol=0).fit(x[0, 0].numpy())
    labels = torch.from_numpy(theirs.labels_).long()
    assert (ours.labels[0, 0] != labels).float().mean() <= 0.002
    assert math.isclose(inertia(x, ours).item(), _own_inertia(x, labels, 31), rel_tol=1e-4)


def plain_capped(x, centroids, cap):
    """The rounds of ``capped_assignment`` as one would do them on paper, for one row."""
    distance = np.square(x[:, None] - centroids[None]).sum(-1)
    room = [capacity(len(x), len(centroids), cap)] * len(centroids)
    label, waiting = {}, list(range(len(x)))
    while waiting:
        free = [j for j in range(len(centroids)) if room[j] > 0]
        asked = {n: min(free, key=lambda j: (distance[n, j], j)) for n in waiting}
        for j in free:
            proposers = sorted((n for n in waiting if asked[n] == j), key=lambda n: (distance[n, j], n))
            for n in proposers[: room[j]]:
                label[n] = j
            room[j] = max(0, room[j] - len(proposers))
        waiting = [n for n in waiting if n not in label]
    return [label[n] for n in range(len(x))]


@pytest.mark.parametrize("cap", [1.0, 1.1, 1.5, 3.0])
@pytest.mark.parametrize(("N", "C"), [(61, 7), (64, 16), (10, 10), (1, 1), (97, 1)], ids=str)
def test_overflow_goes_to_the_nearest_cluster_with_room(N, C, cap):
    x = blobs(2, 1, N, 3, torch.float64, seed=N)[:, 0]
    centroids = x[:, torch.arange(C) * N // C] + 0.01
    labels = capped_assignment(x, centroids, cap)
    for row in range(2):
        assert labels[row].tolist() == plain_capped(x[row].numpy(), centroids[row].numpy(), cap)


@pytest.mark.parametrize("cap", [1.0, 1.25, 1.5])
@pytest.mark.parametrize(("N", "C"), [(500, 13), (512, 64), (7, 7), (65, 64)], ids=str)
def test_no_cluster_is_above_its_cap(N, C, cap):
    x = blobs(2, 3, N, 8)
    clusters = ml.kmeans(x, clusters=C, cap=cap)
    assert clusters.counts.max() <= math.ceil(cap * N / C)
    assert_partition(x, clusters)


def test_the_cap_of_a_padded_row_counts_its_own_vectors():
    x = blobs(3, 2, 90, 4)
    mask = torch.arange(90) < torch.tensor([90, 41, 3])[:, None]
    clusters = ml.kmeans(x, clusters=8, cap=1.2, mask=mask)
    assert_partition(x, clusters, mask)
    for b, n in enumerate((90, 41, 3)):
        assert clusters.counts[b].max() <= math.ceil(1.2 * n / 8)


@pytest.mark.parametrize("init", ["random", "strided", "k-means++"])
def test_one_seed_gives_one_partition(init):
    x = blobs(2, 2, 130, 6)
    first, second = (ml.kmeans(x, clusters=9, iterations=2, cap=1.5, seed=3, init=init) for _ in range(2))
    assert torch.equal(first.labels, second.labels)
    other = ml.kmeans(x, clusters=9, iterations=2, cap=1.5, seed=4, init=init)
    assert torch.equal(first.labels, other.labels) == (init == "strided")
    assert_partition(x, first)


@pytest.mark.parametrize("init", ["random", "strided", "k-means++"])
def test_padding_has_no_say_in_the_partition(init):
    x = blobs(2, 2, 120, 6)
    mask = torch.ones(2, 120, dtype=torch.bool)
    mask[1, 70:] = False
    ours = ml.kmeans(x, clusters=9, iterations=2, cap=1.5, seed=3, init=init, mask=mask)
    assert_partition(x, ours, mask)
    noise = torch.where(mask[:, None, :, None], x, 100.0)
    assert torch.equal(
        ml.kmeans(noise, clusters=9, iterations=2, cap=1.5, seed=3, init=init, mask=mask).labels, ours.labels
    )
    other = ml.kmeans(x, clusters=9, iterations=2, cap=1.5, seed=4, init=init, mask=mask)
    assert torch.equal(ours.labels, other.labels) == (init == "strided"), "the seed counts with a mask too"
    everything = ml.kmeans(x, clusters=9, seed=3, init=init, mask=torch.ones_like(mask))
    assert torch.equal(everything.labels, ml.kmeans(x, clusters=9, seed=3, init=init).labels)


def test_kmeans_plus_plus_starts_at_one_vector_of_every_far_group():
    centres = 100 * torch.eye(6)
    x = (centres.repeat(20, 1) + 0.01 * torch.randn(120, 6, generator=torch.Generator().manual_seed(0)))[
        None, None
    ]
    clusters = ml.kmeans(x, clusters=6, iterations=0, init="k-means++")
    assert (clusters.counts == 20).all()


def test_an_empty_cluster_restarts_at_the_farthest_vector():
    x = torch.tensor([0.0, 1.0, 2.0, 50.0]).view(1, 1, 4, 1)
    start = torch.tensor([1.0, -1000.0]).view(1, 1, 2, 1)  # nothing is nearest to the second
    clusters = ml.kmeans(x, clusters=2, iterations=1, init=start)
    assert clusters.labels.flatten().tolist() == [0, 0, 0, 1]
    theirs = KMeans(2, init=start[0, 0].numpy(), n_init=1, max_iter=1, tol=0).fit(x[0, 0].numpy())
    assert theirs.labels_.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("cap", [None, 1.0, 1.5])
@pytest.mark.parametrize("init", ["random", "strided", "k-means++"])
def test_fewer_distinct_vectors_than_clusters(cap, init):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(10, 1)[None, None]
    clusters = ml.kmeans(x, clusters=7, iterations=3, cap=cap, init=init)
    assert_partition(x, clusters)
    if cap is None:
        assert inertia(x, clusters).item() == 0
    else:
        assert clusters.counts.max() <= math.ceil(cap * 20 / 7)


@pytest.mark.parametrize("cap", [None, 1.0])
def test_equal_vectors_fill_clusters_in_order(cap):
    x = torch.full((1, 2, 12, 3), 0.7)
    clusters = ml.kmeans(x, clusters=4, iterations=2, cap=cap)
    assert_partition(x, clusters)
    assert clusters.labels[0, 0].tolist() == ([0] * 12 if cap is None else [n // 3 for n in range(12)])


@pytest.mark.parametrize("bad", POISON.values(), ids=POISON)
@pytest.mark.parametrize("share", [1, 3, 40], ids=["all bad", "a third bad", "one bad"])
def test_kmeans_finishes_and_keeps_its_cap_whatever_comes(bad, share):
    x = blobs(1, 2, 40, 4)
    x[:, :, ::share] = bad
    for cap in (None, 1.0, 1.5):
        for init in ("random", "strided", "k-means++"):
            clusters = ml.kmeans(x, clusters=6, iterations=3, cap=cap, init=init)
            assert clusters.counts.sum(-1).eq(40).all()
            if cap is not None:
                assert clusters.counts.max() <= math.ceil(cap * 40 / 6)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_centroids_are_kept_in_single_precision_or_better(dtype):
    x = blobs(1, 2, 100, 8, dtype)
    for clusters in (ml.kmeans(x, clusters=6, cap=1.5), ml.balanced(x, size=16), ml.runs(x, size=16)):
        assert clusters.centroids.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert_partition(x, clusters)
