"""The spatial partition: contiguous blocks of positions, as in Fast Multipole Attention (2310.11960)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.clustering.checks import check_count, check_mask, check_vectors
from multipole_lab.clustering.clusters import Clusters
from multipole_lab.suggesting import suggesting


@suggesting
def spatial(x: Float[Tensor, "B H N D"], size: int = 64, mask: Bool[Tensor, "B N"] | None = None) -> Clusters:
    """Cut the sequence into blocks of ``size`` neighbours; the last may be shorter.

    Parameters
    ----------
    x : [B, H, N, D].
    size : positions a block, at least 1.
    mask : [B, N], False for padding, which gets the label -1.

    Returns
    -------
    Clusters with ``ceil(N / size)`` clusters.

    Raises
    ------
    ValueError, TypeError : wrong rank, integer tensors, an empty sequence, size below 1.
    """
    labels = spatial_labels(x, size, mask)
    return Clusters.from_labels(x, labels, -(-x.shape[2] // size))


def spatial_labels(
    x: Float[Tensor, "B H N D"], size: int, mask: Bool[Tensor, "B N"] | None = None
) -> Int[Tensor, "B H N"]:
    """The labels alone of ``spatial``, of the same arguments."""
    check_vectors(x)
    check_count("size", size, 1)
    B, H, N, _ = x.shape
    check_mask(mask, B, N)
    labels = (torch.arange(N, device=x.device) // size).expand(B, H, N)
    return labels.contiguous() if mask is None else labels.masked_fill(~mask[:, None], -1)
