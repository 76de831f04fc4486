"""Inertia, silhouette and sizes: what says how good clusters are, against scikit-learn."""

import math

import torch
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from small.vectors import blobs

import multipole_lab as ml
from multipole_lab.clustering import inertia, silhouette, sizes
from multipole_lab.clustering.clusters import Clusters


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
