"""Runs: clusters of consecutive positions, as in Fast Multipole Attention (2310.11960)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.clustering.checks import check_count, check_mask, check_vectors
from multipole_lab.clustering.clusters import Clusters
from multipole_lab.renamed import with_old_names
from multipole_lab.suggesting import suggesting


@suggesting
def runs(x: Float[Tensor, "B H N D"], size: int = 64, mask: Bool[Tensor, "B N"] | None = None) -> Clusters:
    """Cut the sequence into runs of ``size`` neighbours; the last may be shorter.

    Parameters
    ----------
    x : [B, H, N, D].
    size : positions a run, at least 1.
    mask : [B, N], False for padding, which gets the label -1.

    Returns
    -------
    Clusters with ``ceil(N / size)`` clusters.

    Raises
    ------
    ValueError, TypeError : wrong rank, integer tensors, an empty sequence, size below 1.
    """
    labels = run_labels(x, size, mask)
    return Clusters.from_labels(x, labels, -(-x.shape[2] // size))


def run_labels(
    x: Float[Tensor, "B H N D"], size: int, mask: Bool[Tensor, "B N"] | None = None
) -> Int[Tensor, "B H N"]:
    """The labels alone of ``runs``, of the same arguments."""
    check_vectors(x)
    check_count("size", size, 1)
    B, H, N, _ = x.shape
    check_mask(mask, B, N)
    labels = (torch.arange(N, device=x.device) // size).expand(B, H, N)
    return labels.contiguous() if mask is None else labels.masked_fill(~mask[:, None], -1)


__getattr__ = with_old_names(__name__)
