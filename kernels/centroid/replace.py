"""Centroid replacement: attention over the plain means of key clusters, the expansion at the origin."""

from __future__ import annotations

from torch import Tensor

from ..clustering.centroids import cluster_means
from ..common.checks import check_tensors
from ..common.derivatives import KernelFunction
from ..exact.leaf import leaf


def centroid_field(
    q: Tensor, mean_k: Tensor, mean_v: Tensor, counts: Tensor, scale: float, replaced: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every cluster acts as its centroid, weighted by its size; differentiable in q and both means.

    out(q) = sum_j softmax_j(log n_j + s q.c_j) v_j and its log-sum-exp: exact attention over the J centroids with
    a bias, so the kernels are those of `leaf`.

    Parameters
    ----------
    q : [R, M, D], all queries of a group of heads. mean_k : [R, J, D], mean_v : [R, J, Dv] in the dtype of q.
    counts : [R, J], the members of each cluster.
    replaced : [R, M, J] bool, False for clusters that a query sums exactly elsewhere; None for all.

    Returns
    -------
    out [R, M, Dv] in the dtype of q, lse [R, M] fp32; 0 and -inf where nothing is replaced.

    Bytes: q and out once, the means for every tile of queries (L2), R M J of `replaced`.
    Operations: 2 R M J (D + Dv).
    """
    check_tensors("centroid_field", q=q, mean_k=mean_k, mean_v=mean_v)
    bias = counts.float().log()  # -inf for an empty cluster
    means = mean_k.unsqueeze(1), mean_v.unsqueeze(1)
    out, lse = leaf(q.unsqueeze(1), *means, scale, causal=False, valid=replaced, bias=bias)
    return out.squeeze(1), lse.squeeze(1)


def member_means(
    x: Tensor, labels: Tensor, counts: Tensor, order: Tensor, offsets: Tensor, raw: bool = True
) -> Tensor:
    """c_j = sum_{n in j} x_n / n_j in fp32, differentiable in x; non-finite numbers stay as they are, or count as zero
    without `raw`.

    x [R, N, D]; labels [R, N], counts [R, J], order [R, N] and offsets [R, J + 1] as in `Clusters`; [R, J, D].

    Bytes: x and order once, 4 R J D written; backward R J D (4) and dx. Operations: R N D.
    """
    return _Means.apply(x, labels, counts, order, offsets, raw)


class _Means(KernelFunction):
    operation = "member_means"
    twice = True  # the gradient is linear in what comes in, and torch's own operations make it

    @staticmethod
    def forward(ctx, x, labels, counts, order, offsets, raw):
        ctx.save_for_backward(labels, counts)
        ctx.dtype = x.dtype
        return cluster_means(*(y.unsqueeze(1) for y in (x, order, offsets)), raw=raw).squeeze(1)

    @staticmethod
    def backward(ctx, dmeans):
        labels, counts = ctx.saved_tensors
        share = dmeans / counts.clamp(min=1).unsqueeze(-1)
        dx = share.gather(1, labels.clamp(min=0).unsqueeze(-1).expand(*labels.shape, share.shape[-1]))
        return dx.masked_fill((labels < 0).unsqueeze(-1), 0).to(ctx.dtype), *(None,) * 5
