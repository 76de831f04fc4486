"""Rotary position embedding, undone: keys as they were before they were rotated to their position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.interface.layers import head_size


@dataclass(frozen=True)
class Rotation:
    """The rotation that a model gives to queries and keys: pair (i, i + half) by ``position * frequency_i``.

    In the windowed form of Multipole Attention (2506.13059, section 3.3) keys are clustered unrotated,
    because one meaning at two positions is two vectors once rotated. The query then looks at all centroids as
    if they stood a fixed distance before it. Exact attention still uses the cached, rotated keys.

    Attributes
    ----------
    frequencies : [half] radians per position; the head's coordinates behind 2 * half are not rotated.
    """

    frequencies: Float[Tensor, " half"]

    def rotate(self, x: Float[Tensor, "B H n D"], positions: Int[Tensor, "*B n"]) -> Float[Tensor, "B H n D"]:
        """Rotate every vector by its position; by a negative one to undo it. Angles are computed in float64."""
        half = self.frequencies.numel()
        angle = positions.double().unsqueeze(-1) * self.frequencies.double().to(x.device)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
        a, b = x[..., :half].to(dtype), x[..., half : 2 * half].to(dtype)
        rotated = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        return torch.cat([rotated.to(x.dtype), x[..., 2 * half :]], -1)


def rotation_of(config: object) -> Rotation:
    """The rotation of a model's full-attention layers.

    Parameters
    ----------
    config : a transformers configuration.

    Raises
    ------
    ValueError : a model without RoPE, one whose frequencies change with the length of the text, or one that
        pairs neighbouring coordinates.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = config.get_text_config(decoder=True)
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        raise ValueError(
            f"rope='windowed' needs a model with RoPE; {config.model_type} has no rope_parameters"
        )
    parameters = parameters.get("full_attention", parameters)
    kind = parameters.get("rope_type", "default")
    if kind in ("dynamic", "longrope"):
        raise ValueError(f"rope='windowed' cannot undo RoPE of type {kind!r}, which changes with the length")
    if config.model_type in ("glm", "glm4", "cohere", "cohere2", "gptj", "codegen", "ernie4_5"):
        raise ValueError(f"rope='windowed' does not know the pairing of coordinates in {config.model_type}")
    if kind == "default":
        rotated = int(head_size(config) * parameters.get("partial_rotary_factor", 1.0))
        power = torch.arange(0, rotated, 2, dtype=torch.float64) / rotated
        return Rotation(parameters["rope_theta"] ** -power)
    frequencies, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return Rotation(frequencies.double())
