"""What the methods that cluster share around their clustering: padding, NaNs and sinks."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from multipole_lab.attention.calls.backend import use_triton
from multipole_lab.attention.calls.checks import finite
from multipole_lab.attention.calls.padding import without_gaps
from multipole_lab.attention.causal import Full, with_sinks
from multipole_lab.attention.clusters.partition import Partition
from multipole_lab.attention.exact import exact_causal, exact_partial
from multipole_lab.attention.partials import Partial


class Clustered(Protocol):
    """A method with clusters of keys."""

    leaf: int
    sinks: int
    backend: str
    _partition: Partition
    _over_all: Full
    _over_past: Full


def attend_clustered(
    method: Clustered, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, causal: bool
) -> Partial:
    """A call of the method: ``_over_past`` causally, otherwise ``_over_all``, with the padding taken out before."""
    if not causal:
        method._partition.check_fits(k.shape[2])
        square = q.shape[2] == k.shape[2]
        return without_gaps(method._over_all, q, k, v, scale, mask, False, square, method._over_all)
    if mask is not None and k.shape[2] <= method.leaf:  # exact, so that padding changes nothing
        return exact_causal(q, k, v, scale, mask, method.backend)
    return without_gaps(method._over_past, q, k, v, scale, mask, True, True, method._over_all)


def behind_sinks(
    attend: Full,
    method: Clustered,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
    causal: bool,
    by_kernels: bool | None = None,
) -> Partial:
    """``attend`` over the keys behind the sinks; exact attention where a NaN or an infinity would spread.

    In the kernels none does; ``by_kernels`` says whether those run, where the backend alone does not.
    """
    by_kernels = use_triton(method.backend, q, v) if by_kernels is None else by_kernels
    if not by_kernels and not finite(q, k, v):
        return exact_causal(q, k, v, scale, mask) if causal else exact_partial(q, k, v, scale, mask=mask)
    return with_sinks(attend, q, k, v, scale, mask, method.sinks, causal, method.backend)
