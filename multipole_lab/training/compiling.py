"""What lies around attention, compiled: norms, MLPs and the loss. Attention itself stays as it is on both sides."""

from __future__ import annotations

import torch
from torch import nn


def compile_parts(model: nn.Module, backend: str = "inductor") -> None:
    """Compile, in place, every norm, every MLP and the loss of a transformers Llama; parameters keep their names.

    The parts of all layers share one compiled program, so that time to compile does not grow with the depth. The
    loss makes no float32 copy of the logits.

    Parameters
    ----------
    backend : of ``torch.compile``.
    """
    for name, part in model.named_modules():
        if name.endswith(("norm", "mlp")):
            part.compile(dynamic=False, backend=backend)
    model.loss_function = torch.compile(model.loss_function, dynamic=False, backend=backend)
