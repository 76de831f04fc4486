"""What transformers asks of some caches and a clustered one refuses, in words that say what to do instead."""

from __future__ import annotations

from transformers.cache_utils import Cache


class NotOffered(Cache):
    """A cache of attention's keys and values that stay on the model's device."""

    def offload(self, *_: object, **__: object) -> None:
        """Not offered."""
        raise NotImplementedError("MultipoleCache stays on the model's device; it cannot be offloaded")

    prefetch = offload

    def _keeps_no_states(self, *_: object, **__: object) -> None:
        raise ValueError(
            "the model has layers that keep a state and no keys and values (linear attention, Mamba, convolutions, "
            "an indexer): MultipoleCache holds attention's keys and values only; use transformers' DynamicCache"
        )

    get_conv_state = update_conv_state = _keeps_no_states
    get_recurrent_state = update_recurrent_state = _keeps_no_states
    update_indexer = has_previous_state = _keeps_no_states
