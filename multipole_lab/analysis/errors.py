"""How far an approximation is from exact attention."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def relative_squared_error(
    approx: Float[Tensor, "B H N Dv"], exact: Float[Tensor, "B H N Dv"]
) -> Float[Tensor, ""]:
    """``||o - o~||^2 / ||o||^2`` over all queries of a head, then the mean over batch entries and heads.

    Summed in float64 and returned as a float64 scalar tensor; 0 is exact, 1 is as bad as answering zero.

    Raises
    ------
    ValueError : shapes that differ or are not [B, H, N, Dv].
    """
    return per_head_error(approx, exact).mean()


def per_head_error(
    approx: Float[Tensor, "B H N Dv"], exact: Float[Tensor, "B H N Dv"]
) -> Float[Tensor, "B H"]:
    """The relative squared error of every head; a head whose exact output is zero counts 0 if equal, else inf."""
    wrong, size = _squares(approx, exact)
    wrong, size = wrong.sum(-1), size.sum(-1)
    # A NaN on either side comes out as NaN.
    return torch.where(size == 0, torch.where(wrong == 0, 0.0, torch.inf), wrong / size)


def per_query_error(
    approx: Float[Tensor, "B H N Dv"], exact: Float[Tensor, "B H N Dv"]
) -> Float[Tensor, "B H N"]:
    """Every query's squared error over the mean squared norm of its head's outputs.

    The mean over the queries of a head is the head's relative squared error, so this shows where it sits.
    """
    wrong, size = _squares(approx, exact)
    return wrong / size.mean(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def _squares(approx: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
    if approx.shape != exact.shape or exact.ndim != 4:
        raise ValueError(
            f"approx has shape {tuple(approx.shape)} and exact {tuple(exact.shape)}; both must be one [B, H, N, Dv]"
        )
    exact = exact.double()
    return (approx.double() - exact).square().sum(-1), exact.square().sum(-1)
