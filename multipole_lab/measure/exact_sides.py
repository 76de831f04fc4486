"""Every exact attention that a time can be compared with: torch's backends one by one, and FlexAttention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from multipole_lab.measure.references import BACKENDS, reference

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def exact_sides(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, backward: bool = False
) -> tuple[dict[str, Attend], dict[str, str]]:
    """The sides that run for such inputs, and why the others do not.

    On CUDA "cudnn", "flash", "efficient" and "flex", and "math", of quadratic memory, only where none of those
    runs. On a CPU torch's own choice, "sdpa": it has one fused kernel there.

    Parameters
    ----------
    q, k, v : [B, H, N, D], what the sides will be called with. backward : also try the gradient.

    Returns
    -------
    name to a call of ``(q, k, v)``, and name to the reason for which a side is left out.
    """
    if q.device.type != "cuda":
        reason = f"on a {q.device.type} only torch's own choice is timed"
        names = [name for name in (*BACKENDS, "flex") if name != "math"]
        return {"sdpa": partial(reference, causal=causal)}, dict.fromkeys(names, reason)
    sides, skipped = {}, {}
    makers = {name: partial(_backend, backend) for name, backend in BACKENDS.items() if name != "math"}
    for name, make in {**makers, "flex": _flex, "math": partial(_backend, BACKENDS["math"])}.items():
        if name == "math" and sides:
            skipped[name] = "quadratic memory: only where nothing else runs"
            continue
        try:
            side = make(q, k, causal)
            _try(side, q, k, v, backward)
            sides[name] = side
        except Exception as problem:  # whatever keeps a library from running here is a line of the report
            skipped[name] = " ".join(f"{type(problem).__name__}: {problem}".split())[:200]
    return sides, skipped


def _try(side: Attend, q: Tensor, k: Tensor, v: Tensor, backward: bool) -> None:
    inputs = [x.detach().requires_grad_(backward) for x in (q, k, v)]
    with torch.set_grad_enabled(backward):
        out = side(*inputs)
        if backward:
            torch.autograd.grad(out.sum(), inputs)
    torch.cuda.synchronize(q.device)


def _backend(backend, q: Tensor, k: Tensor, causal: bool) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return reference(q, k, v, causal)

    return attend


def _flex(q: Tensor, k: Tensor, causal: bool) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def earlier(b, h, i, j):
        return i >= j

    mask = create_block_mask(earlier, None, None, q.shape[2], k.shape[2], device=q.device) if causal else None
    compiled = torch.compile(flex_attention, dynamic=False)
    return partial(compiled, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
