"""The metric in which keys are clustered: as the queries see them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.clustering.clusters import statistics_dtype

# Least share of the plain distance in the metric: later queries may differ from those that were seen.
PLAIN = 0.1
# Queries that the mean remembers; older ones fade.
MEMORY = 256


class QueryMetric:
    """How much each coordinate of a key matters to the queries of its head.

    A key k stands in for its centroid c to a query q with the error ``q.(k - c)`` in its logit. Over the queries
    its square has the mean ``(k - c)^T E[q q^T] (k - c)``; this class keeps the diagonal of ``E[q q^T]``. k-means on
    keys whose coordinates are multiplied by ``weights = sqrt(E[q_d^2])`` makes that error small instead of the
    plain distance. The mean square of the weights is 1, so that inertia keeps its units.

    On SmolLM2 the diagonal halves the error of a decoding step and is as good as the full matrix; the queries of
    one token are nearly as good as those of 512.

    Attributes
    ----------
    moment : [B, Hk, D] running mean of the squares of the queries; None before the first.
    seen : queries in it.
    """

    def __init__(self) -> None:
        self.moment: Float[Tensor, "B Hk D"] | None = None
        self.seen = 0

    def watch(self, q: Float[Tensor, "B Hq 1 D"], heads: int) -> None:
        """Take one more query per head into account, in the frame of the centroids; ``heads`` is Hk."""
        B, Hq, _, D = q.shape
        squares = q.reshape(B, heads, Hq // heads, D).to(statistics_dtype(q.dtype)).square().mean(2)
        squares = torch.nan_to_num(squares, nan=0.0, posinf=0.0)
        self.seen = min(self.seen + 1, MEMORY)
        if self.moment is None:
            self.moment = squares
        else:
            self.moment = self.moment.lerp(squares, 1 / self.seen)

    def weights(self) -> Float[Tensor, "R 1 D"] | None:
        """The factor of every coordinate, R = B * Hk; None as long as no query was seen."""
        if self.moment is None:
            return None
        mean = self.moment.mean(-1, keepdim=True)
        even = torch.ones_like(self.moment)
        plain = max(PLAIN, 1 / (1 + self.seen))  # one query says little about the next
        share = torch.where(mean > 0, self.moment / mean, even).lerp(even, plain)
        return share.sqrt().flatten(0, 1).unsqueeze(1)

    def select(self, index: Int[Tensor, " B2"]) -> None:
        """Take batch entries, repeated or in another order."""
        if self.moment is not None:
            self.moment = self.moment.index_select(0, index.to(self.moment.device))
