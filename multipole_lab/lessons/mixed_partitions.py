"""MuSe whose queries and keys fall into clusters in different ways: which side is it that matters?"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from multipole_lab.attention import MuSe
from multipole_lab.attention.clusters.assignments import Assignments
from multipole_lab.attention.muse_formula import Expansion, muse_recomputed


def mixed_partitions(
    q: Float[Tensor, "B Hq Nq D"],
    k: Float[Tensor, "B Hk Nk D"],
    v: Float[Tensor, "B Hk Nk Dv"],
    queries: str,
    keys: str,
    clusters: int = 64,
) -> Float[Tensor, "B Hq Nq Dv"]:
    """Return the output of full attention by ``MuSe(clusters)``, its monopole, with one partition for each side.

    Parameters
    ----------
    q, k, v : [B, Hq, Nq, D], [B, Hk, Nk, D], [B, Hk, Nk, Dv]; the scale is 1 / sqrt(D).
    queries, keys : "kmeans", "balanced" or "runs", how each falls into clusters.

    Raises
    ------
    ValueError : a partition that does not exist, or more clusters than keys.
    """
    method = MuSe(clusters=clusters, partition=queries)
    of_queries, of_keys = (
        method._query_partition.slots(q),
        replace(method, partition=keys)._partition.slots(k),
    )
    every_key = torch.ones_like(k[..., 0], dtype=torch.bool)
    return muse_recomputed(
        q, k, v, Assignments(of_queries, of_keys, every_key), Expansion(q.shape[-1] ** -0.5, 0, 0)
    )[0]
