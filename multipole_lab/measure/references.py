"""The exact side of a timing: torch's own attention, or by name the fastest kernel of it that runs here."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def reference(q, k, v, causal: bool, scale: float | None = None):
    """Torch's own exact attention, which every time is compared with; the causal diagonal ends at the last key."""
    gqa = q.shape[1] != k.shape[1]
    if causal and q.shape[2] != k.shape[2]:
        raise ValueError("the timed reference takes causal attention of equal lengths only")
    if gqa and q.is_cuda and q.dtype == torch.float32:  # shared keys have there no kernel of linear memory
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        gqa = False
    return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=gqa)


def fastest_reference(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[str, Callable[[], Tensor]]:
    """The name of the fastest backend of torch's attention for these inputs, and a call of it.

    On a CPU torch has one fused kernel, which its own choice takes. On CUDA every backend is timed once after a
    warm-up; those that refuse the inputs are passed over.
    """

    def attend() -> Tensor:
        return reference(q, k, v, causal)

    if q.device.type != "cuda":
        return "sdpa", attend
    from multipole_lab.measure.timing import interleaved

    times = {}
    for name, backend in BACKENDS.items():
        if name == "math" and times:
            continue  # quadratic memory: only where nothing else runs
        call = _with_backend(attend, backend)
        try:
            # One that refuses says so in a dozen warnings, of which nobody who asked for the fastest has any use.
            with torch.no_grad(), warnings.catch_warnings(action="ignore"):
                times[name] = interleaved({name: call}, repeats=3, device="cuda")[name]
        except RuntimeError:
            continue
    best = min(times, key=times.get)
    return best, _with_backend(attend, BACKENDS[best])


def _with_backend(call: Callable[[], Tensor], backend: SDPBackend) -> Callable[[], Tensor]:
    def chosen() -> Tensor:
        with sdpa_kernel(backend):
            return call()

    return chosen
