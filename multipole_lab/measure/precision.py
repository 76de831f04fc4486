"""In which precision attention is measured on a device, where nobody says."""

from __future__ import annotations

import torch


def default_dtype(device: str | torch.device) -> torch.dtype:
    """float32 on a CPU; on a GPU the half precision that its tensor cores have.

    That is bfloat16 from compute capability 8.0 on. Older ones, a T4 among them, only imitate it: float16 there.
    """
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def default_dtype_name(device: str | torch.device) -> str:
    """``default_dtype`` as an option's value: "float32", "bfloat16" or "float16"."""
    return str(default_dtype(device)).removeprefix("torch.")
