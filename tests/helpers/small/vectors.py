"""Vectors to cluster, and what makes their clusters a partition."""

import math

import torch

from multipole_lab.clustering.clusters import Clusters

POISON = {"nan": math.nan, "inf": math.inf, "minus inf": -math.inf, "overflowing": 1e30, "largest": 3e38}


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
