"""Every way of dense decoding that runs on a device, for the best of them to be the baseline."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from multipole_lab.measure.references import BACKENDS


def dense_sides(k: Tensor, scale: float) -> list[tuple[str, Callable[[Tensor, Tensor, Tensor], Tensor]]]:
    """Every way of dense decoding that runs here."""

    def as_heads(backend, q, k, v):
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=q.shape[1] != k.shape[1])

    def as_rows(backend, q, k, v):
        B, Hq, _, D = q.shape
        with sdpa_kernel(backend):
            out = scaled_dot_product_attention(q.view(B, k.shape[1], -1, D), k, v, scale=scale)
        return out.reshape(B, Hq, 1, -1)

    sides = [("dense " + name + how.__name__[2:].replace("_", " "), partial(how, backend))
             for name, backend in BACKENDS.items() if name != "math" or not k.is_cuda
             for how in (as_heads, as_rows)]  # fmt: skip
    sides.append(("dense, our kernel", partial(split_dense, scale)))
    good = []
    for name, side in sides:
        try:
            side(k.new_zeros(1, 4 * k.shape[1], 1, k.shape[3]), k[:, :, :256], k[:, :, :256])
            good.append((name, side))
        except (RuntimeError, ValueError) as problem:
            print(f"{name}: does not run here ({str(problem).splitlines()[0][:80]})")
    return good


def split_dense(scale: float, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Our own split-KV attention, given all keys as the list of members."""
    from multipole_lab.kernels.decode.attend import decode_attend
    from multipole_lab.kernels.decode.merge import decode_merge

    (B, Hq, _, D), (Hk, N) = q.shape, k.shape[1:3]
    members = torch.arange(N, dtype=torch.int32, device=k.device).repeat(B * Hk, 1)
    taken = torch.full((B * Hk,), N, dtype=torch.int32, device=k.device)
    stored = [x.contiguous().flatten(0, 1) for x in (k, v)]
    parts = decode_attend(q.reshape(B * Hk, Hq // Hk, D), *stored, scale, members=members, taken=taken)
    return decode_merge(*parts, q.dtype)[0].view(B, Hq, 1, -1)
