"""What an attention call refuses, in words that name the argument, what came and what is allowed."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from multipole_lab.attention.calls.transforms import has_values, may_look
from multipole_lab.clustering.checks import check_flag, check_mask, check_vectors
from multipole_lab.clustering.clusters import statistics_dtype


def check_qkv(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> None:
    """Shapes, heads, dtypes and devices of q [B, Hq, Nq, D], k [B, Hk, Nk, D] and v [B, Hk, Nk, Dv]; a flag."""
    check_flag("causal", causal)
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_vectors(x, name)
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(f"q, k and v have dtypes {q.dtype}, {k.dtype}, {v.dtype}; one dtype is needed")
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k and v are on {q.device}, {k.device}, {v.device}; one device is needed")
    if not q.shape[0] == k.shape[0] == v.shape[0]:
        raise ValueError(f"the batch sizes (dimension 0) differ: {shapes}")
    if k.shape[1] != v.shape[1]:
        raise ValueError(f"k and v have different numbers of heads (dimension 1): {shapes}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"the query heads must be a multiple of the key/value heads (dimension 1): {shapes}")
    if k.shape[2] != v.shape[2]:
        raise ValueError(f"k and v have different lengths (dimension 2): {shapes}")
    if q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k have different head sizes (dimension 3): {shapes}")
    if causal and q.shape[2] > k.shape[2]:
        raise ValueError(
            f"causal attention takes the queries as the last positions, so Nq <= Nk is needed (dimension 2): {shapes}"
        )


def check_scale(scale: object) -> float:
    """A finite number."""
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise TypeError(f"scale is {scale!r}; a finite number is needed, or None for 1/sqrt(D)")
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale}; a finite number is needed, or None for 1/sqrt(D)")
    return float(scale)


def key_mask(
    mask: Tensor | None, lengths: Tensor | None, batch: int, keys: int, device: torch.device
) -> Tensor | None:
    """A boolean key padding mask [B, Nk], True for keys that count, from ``mask`` or ``lengths``; None for all.

    ``mask`` may also be [B, 1, 1, Nk]. Any other mask depends on the query, which no expansion can honour.
    """
    if mask is not None and lengths is not None:
        raise ValueError("mask and lengths are both given; give one")
    if lengths is not None:
        wanted = f"integers of shape [B] = [{batch}] are needed"
        try:
            lengths = torch.as_tensor(lengths, device=device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"lengths is {lengths!r}; {wanted}") from error
        if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
            raise TypeError(f"lengths has dtype {lengths.dtype}; {wanted}")
        if tuple(lengths.shape) != (batch,):
            raise ValueError(f"lengths has shape {tuple(lengths.shape)}; {wanted}")
        if torch.compiler.is_compiling():  # nobody may look; the graph does when it runs
            fits = ((lengths >= 0) & (lengths <= keys)).all()
            torch._assert_async(fits, "lengths has values below 0 or above Nk")
        elif has_values(lengths) and bool(((lengths < 0) | (lengths > keys)).any()):
            raise ValueError(f"lengths is {lengths.tolist()}; values between 0 and Nk = {keys} are needed")
        return torch.arange(keys, device=device) < lengths[:, None]
    if mask is None:
        return None
    if isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[1:3] == (1, 1):
        mask = mask[:, 0, 0]
    if isinstance(mask, Tensor) and mask.ndim != 2:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; only a key padding mask [B, Nk] or [B, 1, 1, Nk] can be honoured: "
            "one that depends on the query cannot. Use causal=True for causal attention"
        )
    check_mask(mask, batch, keys)
    if mask.device != device:
        raise ValueError(f"mask is on {mask.device}, q on {device}; one device is needed")
    return mask


def without_padding(k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """k and v with zeros for padding, whose NaNs a weight of zero would not silence; untouched if there are none."""
    if k.device.type == "cpu" and may_look(k, v) and finite(k, v):
        return k, v
    padding = ~mask[:, None, :, None]
    return k.masked_fill(padding, 0.0), v.masked_fill(padding, 0.0)


def finite(*tensors: Tensor) -> bool:
    """Whether all numbers are finite, as far as a look is free: where there is none it answers yes.

    There is none under ``torch.compile`` and ``torch.func.vmap``, and at tensors without numbers (meta and fake ones).

    One NaN or infinite key reaches every query that sees it, and a NaN query none but itself; no summary of a
    cluster can tell. A method that meets one hands over to exact attention, so that the NaNs are where they belong.
    A sum is NaN or infinite if a term is; the rare overflow of finite terms costs time, not correctness.
    What torch's own attention does then holds: a NaN or infinite value also reaches the causal queries before it, as
    0 * NaN, and on a CPU a query that is all NaN gives zeros where it sees fewer than 16 keys.
    """
    if not may_look(*tensors):
        return True
    return all(bool(x.detach().sum(dtype=statistics_dtype(x.dtype)).isfinite()) for x in tensors)
