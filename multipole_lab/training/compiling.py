"""What lies around attention, compiled: projections, RoPE, norms, MLPs and the loss; the same on both sides."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn


def compile_parts(model: nn.Module, backend: str = "inductor") -> None:
    """Compile, in place, every layer around its attention, the last norm and the loss of a transformers Llama.

    Attention stays what it is: functions that are entered with ``register`` run outside compiled programs, and so does
    torch's where a hook is around it. All layers share the programs, so that time to compile does not grow with the
    depth; parameters keep their names. The loss makes no float32 copy of the logits.

    Parameters
    ----------
    backend : of ``torch.compile``.
    """
    compiled = {"dynamic": False, "backend": backend}
    for layer in model.model.layers:
        layer.forward = _without_mask(torch.compile(layer.forward, **compiled))
    model.model.norm.compile(**compiled)
    model.loss_function = torch.compile(model.loss_function, **compiled)


def _without_mask(forward: Callable) -> Callable:
    """A layer's forward that gets no mask: training blocks are full, and a model is causal without one."""

    @wraps(forward)
    def forward_unmasked(hidden_states: Tensor, attention_mask: object = None, **kwargs: object) -> Tensor:
        return forward(hidden_states, attention_mask=None, **kwargs)

    return forward_unmasked
