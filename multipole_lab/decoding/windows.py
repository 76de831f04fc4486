"""Which layers of a model attend through a sliding window."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def windows_of(config: PreTrainedConfig | None) -> list[int | None]:
    """The sliding window of every layer, None for full attention; no layers where there is no configuration.

    Raises
    ------
    ValueError : layers that are neither.
    """
    if config is None:
        return []
    config = config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    count = config.num_hidden_layers
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return [window] * count
    refused = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if refused:
        raise ValueError(f"MultipoleCache does not know layers of type {', '.join(refused)}")
    return [window if kind == "sliding_attention" else None for kind in kinds]
