"""How far an approximation is from exact attention, in what a layer or a whole model puts out."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.clustering.checks import check_tensor
from multipole_lab.suggesting import suggesting


@suggesting
def relative_squared_error(
    approx: Float[Tensor, "B H N Dv"], exact: Float[Tensor, "B H N Dv"]
) -> Float[Tensor, ""]:
    """``||o - o~||^2 / ||o||^2`` over all queries of a head, then the mean over batch entries and heads.

    Summed in float64 and returned as a float64 scalar tensor; 0 is exact, 1 is as bad as answering zero.

    Raises
    ------
    ValueError : shapes that differ or are not [B, H, N, Dv]. TypeError : no tensors.
    """
    return per_head_error(approx, exact).mean()


@suggesting
def per_head_error(
    approx: Float[Tensor, "B H N Dv"], exact: Float[Tensor, "B H N Dv"]
) -> Float[Tensor, "B H"]:
    """The relative squared error of every head; a head whose exact output is zero counts 0 if equal, else inf."""
    wrong, size = _squares(approx, exact)
    wrong, size = wrong.sum(-1), size.sum(-1)
    # A NaN on either side comes out as NaN.
    return torch.where(size == 0, torch.where(wrong == 0, 0.0, torch.inf), wrong / size)


@suggesting
def per_query_error(
    approx: Float[Tensor, "B H N Dv"], exact: Float[Tensor, "B H N Dv"]
) -> Float[Tensor, "B H N"]:
    """Every query's squared error over the mean squared norm of its head's outputs.

    The mean over the queries of a head is the head's relative squared error, so this shows where it sits.
    """
    wrong, size = _squares(approx, exact)
    return wrong / size.mean(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


@suggesting
def worst_token(
    approx: Float[Tensor, "B H N Dv"], exact: Float[Tensor, "B H N Dv"]
) -> tuple[Float[Tensor, "B H"], Int[Tensor, "B H"]]:
    """The largest ``per_query_error`` of each head and the position of that query; a NaN counts as the largest."""
    largest = per_query_error(approx, exact).max(-1)
    return largest.values, largest.indices


@suggesting
def cosine(approx: Float[Tensor, "*batch D"], exact: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
    """``o.o~ / (||o|| ||o~||)`` of every vector, in float64: outputs of a layer, hidden states, sentence embeddings.

    1 is the same direction. Where both are zero it is 1, where one of them is, 0.

    Raises
    ------
    ValueError : shapes that differ.
    """
    _check_tensors(approx, exact, "[..., D]")
    if approx.shape != exact.shape:
        raise ValueError(
            f"approx has shape {tuple(approx.shape)} and exact {tuple(exact.shape)}; one shape is needed"
        )
    a, e = approx.double(), exact.double()
    a_norm, e_norm = a.norm(dim=-1), e.norm(dim=-1)
    both_zero = (a_norm == 0) & (e_norm == 0)
    tiny = torch.finfo(torch.float64).tiny
    return torch.where(both_zero, 1.0, (a * e).sum(-1) / (a_norm * e_norm).clamp(min=tiny))


@suggesting
def loss_difference(
    approx: Float[Tensor, "*batch V"], exact: Float[Tensor, "*batch V"], targets: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Cross-entropy of the true next token under approximate less under exact logits, in nats, for every position.

    The mean is the difference of the two losses. Positive is worse than exact.

    Raises
    ------
    ValueError : shapes that do not fit together, token ids that the logits do not have. TypeError : no tensors.
    """
    _check_logits(approx, exact)
    check_tensor(targets, "targets", "of token ids")
    if targets.dtype != torch.int64:
        raise TypeError(f"targets has dtype {targets.dtype}; token ids in torch.int64 are needed")
    if targets.shape != exact.shape[:-1]:
        raise ValueError(f"targets has shape {tuple(targets.shape)}; {tuple(exact.shape[:-1])} is needed")
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < exact.shape[-1]:
        raise ValueError(f"targets has token ids beyond 0 to {exact.shape[-1] - 1}, those of the logits")
    a, e = (x.double().log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1) for x in (approx, exact))
    return e - a


@suggesting
def next_token_kl(
    approx: Float[Tensor, "*batch V"], exact: Float[Tensor, "*batch V"]
) -> Float[Tensor, "*batch"]:
    """``KL(p || p~) = sum_t p_t (log p_t - log p~_t)`` in nats of the next-token distributions, for every position.

    p is exact, p~ approximate; both from logits. 0 is the same distribution. A token with probability 0 under p adds
    nothing.

    Raises
    ------
    ValueError : shapes that differ.
    """
    _check_logits(approx, exact)
    a, e = (x.double().log_softmax(-1) for x in (approx, exact))
    return torch.where(e == -torch.inf, 0.0, e.exp() * (e - a)).sum(-1)


def _check_tensors(approx: Tensor, exact: Tensor, shape: str) -> None:
    check_tensor(approx, "approx", shape)
    check_tensor(exact, "exact", shape)


def _check_logits(approx: Tensor, exact: Tensor) -> None:
    _check_tensors(approx, exact, "of logits")
    if approx.shape != exact.shape:
        raise ValueError(
            f"approx has shape {tuple(approx.shape)} and exact {tuple(exact.shape)}; one shape of logits is needed"
        )


def _squares(approx: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
    _check_tensors(approx, exact, "[B, H, N, Dv]")
    if approx.shape != exact.shape or exact.ndim != 4:
        raise ValueError(
            f"approx has shape {tuple(approx.shape)} and exact {tuple(exact.shape)}; both must be one [B, H, N, Dv]"
        )
    exact = exact.double()
    return (approx.double() - exact).square().sum(-1), exact.square().sum(-1)
