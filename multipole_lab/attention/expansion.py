"""The expansion of a cluster of keys around points in query space: ``docs/design.md#expansion``, batched.

Shapes: R = B * Hk rows (one key/value head each), I query clusters a row (those of all query heads of the
group), J key clusters, Mq and Mk slots a cluster, D and Dv head sizes, s the scale.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.attention.calls.transforms import transformed
from multipole_lab.attention.exact import exact_partial
from multipole_lab.attention.partials import Partial, merge

# Stands for -inf inside a softmax, whose rows of nothing but -inf would be NaN.
NEVER = -1e30


class _SoftmaxLse(torch.autograd.Function):
    """With a single exponential for both."""

    @staticmethod
    def forward(ctx, logits, dim):
        weights = logits.softmax(dim)
        # The largest weight is at least 1/M, so this logarithm loses nothing.
        lse = logits.amax(dim) - weights.amax(dim).log()
        ctx.save_for_backward(weights)
        ctx.dim = dim
        return weights, lse

    @staticmethod
    def backward(ctx, dweights, dlse):
        (weights,) = ctx.saved_tensors
        inner = (weights * dweights).sum(ctx.dim, keepdim=True)
        return weights * (dweights - (inner - dlse.unsqueeze(ctx.dim))), None


def softmax_lse(logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Softmax over one dimension and its log-sum-exp."""
    if transformed():
        return logits.softmax(dim), logits.logsumexp(dim)
    return _SoftmaxLse.apply(logits, dim)


def softmax_by_owner(
    a: Float[Tensor, "R I T"], owner: Int[Tensor, "R T"], owners: int
) -> tuple[Float[Tensor, "R I T"], Float[Tensor, "R I owners"]]:
    """Softmax among those of the last dimension that have one owner, and its log-sum-exp, ``NEVER`` of nothing.

    What is ``NEVER`` has no weight, whose ever it is.
    """
    R, I, T = a.shape
    owner = owner.unsqueeze(1).expand(R, I, T)
    largest = a.detach().new_full((R, I, owners), NEVER).scatter_reduce(2, owner, a.detach(), "amax")
    weight = (a - largest.gather(2, owner)).exp()
    weight = torch.where(a < NEVER / 2, 0.0, weight)
    total = a.new_zeros(R, I, owners).scatter_add(2, owner, weight)
    least = torch.finfo(a.dtype).tiny
    share = weight / total.clamp(min=least).gather(2, owner)
    return share, torch.where(total > 0, largest + total.clamp(min=least).log(), NEVER)


def softmax_seen(logits: Tensor) -> tuple[Tensor, Tensor]:
    """``softmax_lse`` over the last dimension, with a log-sum-exp of -inf where every logit is NEVER."""
    weights, lse = softmax_lse(logits, -1)
    return weights, torch.where(lse < NEVER / 2, -torch.inf, lse)


def summarise(
    p: Float[Tensor, "R I D"],
    k: Float[Tensor, "R J Mk D"],
    v: Float[Tensor, "R J Mk Dv"],
    filled: Bool[Tensor, "R J Mk"],
    s: float,
) -> tuple[Float[Tensor, "R I J"], Float[Tensor, "R I J D"], Float[Tensor, "R I J Dv"]]:
    """Mass a_j(p), tilted key centroid k~_j(p) and tilted value centroid v~_j(p) of every cluster at every point.

    ``a_j(p) = log sum_n exp(s p.k_n)``, ``w_n = exp(s p.k_n - a_j(p))``, ``k~ = sum w k``, ``v~ = sum w v``.
    An empty cluster has a mass of -inf. MuSe (2509.10406), section 3.
    """
    R, J, M, D = k.shape
    I = p.shape[1]
    bias = torch.where(filled, 0.0, NEVER).to(p.dtype).view(R, J * M, 1)
    logits = torch.baddbmm(bias, k.view(R, J * M, D), p.mT, alpha=s).view(R * J, M, I)
    w, a = softmax_lse(logits, 1)
    k_tilted = torch.bmm(w.mT, k.view(R * J, M, D)).view(R, J, I, D).transpose(1, 2)
    v_tilted = torch.bmm(w.mT, v.view(R * J, M, -1)).view(R, J, I, -1).transpose(1, 2)
    a = a.view(R, J, I).transpose(1, 2)
    a = torch.where(filled.any(-1).unsqueeze(1), a, NEVER)
    return a, k_tilted, v_tilted


def far_field(
    q: Float[Tensor, "R I Mq D"],
    p: Float[Tensor, "R I D"],
    a: Float[Tensor, "R I J"],
    k_tilted: Float[Tensor, "R I J D"],
    v_tilted: Float[Tensor, "R I J Dv"],
    s: float,
) -> tuple[Float[Tensor, "R I Mq Dv"], Float[Tensor, "R I Mq"]]:
    """``o(q) = sum_j softmax_j(a_j(p) + s (q - p).k~_j) v~_j`` and its log-sum-exp."""
    return far_values(masses_at(q, p, a, k_tilted, s), v_tilted)


def masses_at(
    q: Float[Tensor, "R I Mq D"],
    p: Float[Tensor, "R I D"],
    a: Float[Tensor, "R I J"],
    k_tilted: Float[Tensor, "R I J D"],
    s: float,
) -> Float[Tensor, "R I Mq J"]:
    """The mass of every cluster as each query sees it, ``a_j(p) + s (q - p).k~_j``."""
    R, I, M, D = q.shape
    J = a.shape[-1]
    keys = k_tilted.reshape(R * I, J, D)
    offset = a.reshape(R * I, 1, J) - s * torch.bmm(p.reshape(R * I, 1, D), keys.mT)
    offset = offset.clamp(min=NEVER)
    return torch.baddbmm(offset, q.reshape(R * I, M, D), keys.mT, alpha=s).view(R, I, M, J)


def far_values(
    masses: Float[Tensor, "R I Mq J"], v_tilted: Float[Tensor, "R I J Dv"]
) -> tuple[Float[Tensor, "R I Mq Dv"], Float[Tensor, "R I Mq"]]:
    """The clusters' values weighed by their masses, and the log-sum-exp of those."""
    R, I, M, J = masses.shape
    weights, lse = softmax_seen(masses.view(R * I, M, J))
    out = torch.bmm(weights, v_tilted.reshape(R * I, J, -1))
    return out.view(R, I, M, -1), lse.view(R, I, M)


def principal_directions(
    d: Float[Tensor, "*batch M D"], rank: int, steps: int = 2
) -> Float[Tensor, "*batch D r"]:
    """The leading directions of every query cluster's displacements, by subspace iteration; orthonormal columns.

    A fixed number of smooth steps, so gradients flow through it. Displacements of rank below ``rank`` leave the
    spare columns near zero.
    """
    return leading_directions(d.mT @ d, rank, steps)


def leading_directions(
    covariance: Float[Tensor, "*batch D D"], rank: int, steps: int = 2
) -> Float[Tensor, "*batch D r"]:
    """The same of the displacements' sum of squares ``d^T d``."""
    size = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    covariance = covariance / size.clamp(min=torch.finfo(covariance.dtype).tiny)
    basis = orthonormal(_scattered(covariance.shape[-1], rank, covariance.device).to(covariance.dtype))
    for _ in range(steps):
        basis = orthonormal(covariance @ basis)
    return basis


def _scattered(rows: int, columns: int, device: torch.device) -> Float[Tensor, "D r"]:
    """Numbers from -1/2 to 1/2 without any pattern, always the same, by a formula: a generator of random numbers can
    be neither traced nor mapped over, and its numbers would have to be copied to the device."""
    row, column = (torch.arange(1, n + 1, dtype=torch.float64, device=device) for n in (rows, columns))
    return (43758.5453 * (12.9898 * row[:, None] + 78.233 * column).sin()) % 1 - 0.5


def orthonormal(x: Float[Tensor, "*batch D r"]) -> Float[Tensor, "*batch D r"]:
    """An orthonormal basis of the columns, by the Cholesky factor of their Gram matrix: cheap where r is small."""
    eps = torch.finfo(x.dtype).eps
    norm = x.square().sum(-2, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny).sqrt()
    x = x / norm
    ridge = 10 * eps * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    factor = torch.linalg.cholesky_ex(x.mT @ x + ridge).L
    return torch.linalg.solve_triangular(factor, x.mT, upper=False).mT


def dipole(
    d: Float[Tensor, "R I Mq D"],
    moment: Float[Tensor, "R I r Dv"],
    a: Float[Tensor, "R I J"],
    k_tilted: Float[Tensor, "R I J D"],
    v_tilted: Float[Tensor, "R I J Dv"],
    basis: Float[Tensor, "R I D r"],
    s: float,
) -> Float[Tensor, "R I Mq Dv"]:
    """``s M d`` with M the dipoles of the far clusters, added up with their softmax mass at the expansion point.

    ``M = sum_j pi_j sum_n w_n (v_n - v~_j)(k_n - k~_j)^T`` with ``pi = softmax(a)``, projected on ``basis``. The
    product ``pi_j w_n`` is the softmax over all far keys, so the first moment needs no clusters: ``first_moment``.
    """
    pi = a.softmax(-1).unsqueeze(-1)
    means = (pi * v_tilted).mT @ (k_tilted @ basis)  # [R, I, Dv, r]
    return s * (d @ basis) @ (moment.mT - means).mT


def first_moment(
    p: Float[Tensor, "R I D"],
    k: Float[Tensor, "R N D"],
    v: Float[Tensor, "R N Dv"],
    far: Bool[Tensor, "R I N"],
    basis: Float[Tensor, "R I D r"],
    s: float,
) -> Float[Tensor, "R I r Dv"]:
    """``sum_n w_n (b.k_n) v_n`` for the directions b of every point, w the softmax over its far keys.

    Keys and values come in any order, and ``far`` says which of them count.
    """
    R, I, D, r = basis.shape
    tilt = torch.baddbmm(torch.where(far, 0.0, NEVER).to(k.dtype), s * p, k.mT).softmax(-1)  # [R, I, N]
    # Directions as rows and keys as columns: both products are wide, and the weights run along the rows.
    projected = (basis.mT.reshape(R, I * r, D) @ k.mT).view(R, I, r, -1) * tilt.unsqueeze(2)
    return (projected.flatten(1, 2) @ v).view(R, I, r, -1)


def expansion_points(
    qs: Float[Tensor, "R I Mq D"], members: Bool[Tensor, "R I Mq"]
) -> Float[Tensor, "R I D"]:
    """The mean of each query cluster; zero for an empty one."""
    weights = members.to(qs.dtype) / members.sum(-1, keepdim=True).clamp(min=1)
    return (weights.unsqueeze(-2) @ qs).squeeze(-2)


def nearest_clusters(a: Float[Tensor, "*at J"], near: int) -> Int[Tensor, "*at near"]:
    """The clusters of largest mass at every point or query, J at most; a constant for every derivative."""
    return a.detach().topk(min(near, a.shape[-1]), dim=-1).indices


def near_field(
    qs: Float[Tensor, "R I Mq D"],
    ks: Float[Tensor, "R J Mk D"],
    vs: Float[Tensor, "R J Mk Dv"],
    filled: Bool[Tensor, "R J Mk"],
    nearest: Int[Tensor, "R I near"],
    s: float,
) -> tuple[Float[Tensor, "R I Mq Dv"], Float[Tensor, "R I Mq"]]:
    """Exact attention of every query cluster over its near key clusters."""
    R, I, M, D = qs.shape
    J, Mk = ks.shape[1:3]
    pick = (nearest + torch.arange(R, device=qs.device).view(R, 1, 1) * J).view(-1)
    keys = ks.reshape(R * J, -1).index_select(0, pick).view(R * I, 1, -1, D)
    values = vs.reshape(R * J, -1).index_select(0, pick).view(R * I, 1, keys.shape[2], -1)
    mask = filled.reshape(R * J, Mk).index_select(0, pick).view(R * I, -1)
    out, lse = exact_partial(qs.reshape(R * I, 1, M, D), keys, values, s, mask=mask)
    return out.view(R, I, M, -1), lse.view(R, I, M)


def together(far: Partial, correction: Float[Tensor, "R I Mq Dv"] | None, near: Partial | None) -> Partial:
    """The far field, with the dipole's ``s M d`` if there is one, merged with the near field if there is one."""
    out, lse = far
    if correction is not None:
        out = out + correction
    if near is not None:
        out, lse = merge([(out, lse), near])
    return torch.where(lse.unsqueeze(-1) == -torch.inf, 0.0, out), lse  # padding may be all there is
