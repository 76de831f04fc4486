"""Partitions: k-means against scikit-learn, the cap against plain Python, balanced and runs splits, diagnostics."""

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

import multipole_lab as ml
from multipole_lab.clustering import induced_metric, inertia, silhouette, sizes
from multipole_lab.clustering.capped import capacity, capped_assignment
from multipole_lab.clustering.clusters import Clusters

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}


def blobs(B, H, N, D, dtype=torch.float32, seed=0):
    """Vectors around a few centres, half of them tight, so that sizes differ and a cap has something to do."""
    g = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(B, H, 5, D, generator=g)
    x = centres.gather(2, torch.randint(5, (B, H, N, 1), generator=g).expand(B, H, N, D))
    spread = torch.where(torch.arange(N) % 2 == 0, 0.2, 1.5)[:, None]
    return (x + spread * torch.randn(B, H, N, D, generator=g)).to(dtype)


def assert_partition(x, clusters: Clusters, mask=None):
    """Labels, counts, order, offsets and centroids all describe one partition of what the mask keeps."""
    B, H, N, D = x.shape
    kept = torch.ones(B, N, dtype=torch.bool) if mask is None else mask
    assert clusters.labels.shape == (B, H, N)
    assert clusters.labels.dtype == clusters.counts.dtype == clusters.order.dtype == torch.int64
    for b in range(B):
        for h in range(H):
            labels, order = clusters.labels[b, h], clusters.order[b, h].tolist()
            offsets, counts = clusters.offsets[b, h].tolist(), clusters.counts[b, h].tolist()
            assert sorted(order) == list(range(N))
            assert (labels[~kept[b]] == -1).all()
            assert (labels[kept[b]] >= 0).all()
            assert offsets[0] == 0
            assert offsets[-1] == sum(counts) == int(kept[b].sum())
            assert not kept[b][order[offsets[-1] :]].any(), "padding is not last in order"
            for j in range(clusters.size):
                members = order[offsets[j] : offsets[j + 1]]
                assert members == (labels == j).nonzero().squeeze(-1).tolist()
                assert counts[j] == len(members)
                mean = x[b, h, members].double().mean(0) if members else torch.zeros(D, dtype=torch.float64)
                torch.testing.assert_close(
                    clusters.centroids[b, h, j].double(), mean, rtol=1e-5, atol=1e-5, equal_nan=True
                )


# k-means


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


POISON = {"nan": math.nan, "inf": math.inf, "minus inf": -math.inf, "overflowing": 1e30, "largest": 3e38}


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


# balanced and runs


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


# diagnostics


def test_inertia_is_scikit_learns_at_convergence():
    x = blobs(1, 1, 200, 5, torch.float64)
    start = x[:, :, :6]
    theirs = KMeans(6, init=start[0, 0].numpy(), n_init=1, max_iter=100, tol=0).fit(x[0, 0].numpy())
    ours = ml.kmeans(x, clusters=6, iterations=100, init=start)
    assert math.isclose(inertia(x, ours).item(), theirs.inertia_, rel_tol=1e-9)


def test_silhouette_is_scikit_learns_for_every_head_and_ignores_padding():
    x = blobs(2, 2, 80, 4)
    mask = torch.ones(2, 80, dtype=torch.bool)
    mask[1, 50:] = False
    clusters = ml.kmeans(x, clusters=5, mask=mask)
    scores = silhouette(x, clusters)
    for b, n in enumerate((80, 50)):
        for h in range(2):
            expected = silhouette_score(x[b, h, :n].double().numpy(), clusters.labels[b, h, :n].numpy())
            assert math.isclose(scores[b, h].item(), expected, rel_tol=1e-9)
    assert torch.equal(silhouette(x, clusters, samples=30), silhouette(x, clusters, samples=30))


def test_silhouette_tells_tight_clusters_from_mixed_ones_and_has_no_word_on_one():
    x = blobs(1, 1, 100, 3)
    tight = (100 * torch.eye(3)).repeat(34, 1)[:100] + 0.01 * x[0, 0]
    tight = tight[None, None]
    by_value = ml.kmeans(tight, clusters=3, init="k-means++")
    assert silhouette(tight, by_value).item() > 0.99
    assert silhouette(tight, ml.runs(tight, size=34)).item() < 0.1
    assert silhouette(tight, ml.kmeans(tight, clusters=1)).isnan().all()


def test_sizes_are_sorted_and_inertia_skips_padding():
    x = blobs(1, 1, 50, 3)
    mask = torch.arange(50)[None] < 30
    clusters = ml.kmeans(x, clusters=4, mask=mask)
    assert sizes(clusters).flatten().tolist() == sorted(clusters.counts.flatten().tolist(), reverse=True)
    cut = Clusters.from_labels(x[:, :, :30], clusters.labels[:, :, :30], 4)
    torch.testing.assert_close(inertia(x, clusters), inertia(x[:, :, :30], cut))
