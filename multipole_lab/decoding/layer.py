"""One layer of the clustered cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from multipole_lab.decoding.record import Record
from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.shared import Shared
from multipole_lab.decoding.step.balance import Portion
from multipole_lab.decoding.step.fixed import FixedStep
from multipole_lab.decoding.step.running import run_step
from multipole_lab.decoding.step.trace import traced
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.decoding.store.padding import of_prompt
from multipole_lab.decoding.store.rope import Rotation
from multipole_lab.decoding.store.short import attend_densely
from multipole_lab.decoding.store.storage import kept
from multipole_lab.interface.handle import Handle


class ClusteredLayer(CacheLayerMixin):
    """Keys and values of one attention layer, in clusters; a transformers cache layer.

    Several new tokens at once (a prompt, a further turn) are attended exactly: ``update`` returns plain keys
    and values. For a single new token it returns handles, and ``attend`` does the decode step. What a mask
    hides is learnt from both; clustering happens in steps, for a prompt may come in several pieces.

    Parameters
    ----------
    settings : see ``MultipoleCache``.
    rotation : for ``settings.rope == "windowed"``.
    shared : what it has in common with the other layers of its cache.
    """

    is_croppable = True
    is_sliding = False
    is_compileable = True

    def __init__(
        self, settings: Settings, rotation: Rotation | None = None, shared: Shared | None = None
    ) -> None:
        # The base class would set ``keys`` and ``values``, which are computed here.
        self.settings = settings
        self.hierarchy = Hierarchy(settings, rotation)
        self.shared = Shared(layers=[self]) if shared is None else shared
        self.portion = Portion()
        self.fixed: FixedStep | None = None
        self.dense_steps = self.short_steps = self.number = 0

    @property
    def is_initialized(self) -> bool:
        """Whether any keys have come."""
        return self.hierarchy.keys is not None

    @property
    def batch_size(self) -> int:
        """Texts in the batch."""
        if not self.is_initialized:
            raise AttributeError("the layer holds no keys yet")
        return self.hierarchy.keys.buffer.shape[0]

    @property
    def keys(self) -> Tensor | None:
        """All keys in the text's order, [B, Hk, N, D]: a copy."""
        return self.hierarchy.dense()[0] if self.is_initialized else None

    @property
    def values(self) -> Tensor | None:
        """All values in the text's order, [B, Hk, N, Dv]: a copy."""
        return self.hierarchy.dense()[1] if self.is_initialized else None

    @kept
    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take dtype, device and shape from the first keys and values."""
        self.hierarchy.append(key_states[:, :, :0], value_states[:, :, :0])

    def update(
        self, key_states: Float[Tensor, "B Hk n D"], value_states: Float[Tensor, "B Hk n Dv"], *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Store what is new; return what attention is to see.

        Raises
        ------
        RuntimeError : gradients are wanted, which do not pass through a cache.
        ValueError : another batch size than before.
        """
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            raise RuntimeError("MultipoleCache is for inference; call the model inside torch.no_grad()")
        if self.is_initialized and key_states.shape[0] != self.batch_size:
            raise ValueError(
                f"the batch has {key_states.shape[0]} texts and the cache holds {self.batch_size}; "
                "reset() the cache for another batch"
            )
        return self._store(key_states, value_states)

    @kept
    def _store(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        first = self.get_seq_length() == 0
        self.hierarchy.append(key_states, value_states)
        if first:
            self.shared.record.came(self)
            return of_prompt(key_states, self), value_states
        if key_states.shape[2] == 1:
            self.shared.record.handed = True
            return Handle.of(self, 0), Handle.of(self, 1)
        keys, values = self.hierarchy.dense()
        return of_prompt(keys, self), values

    @kept
    def learn_prompt(self, mask: Tensor | None) -> None:
        """What the mask of several new tokens, [B or 1, 1, n, N], says of padding."""
        self.shared.masks.learn_prompt(self.hierarchy, mask)

    @kept
    def attend(
        self, query: Tensor, mask: Tensor | None, scale: float | None, softcap: float | None = None
    ) -> Tensor | None:
        """The decode step; None where only dense attention can honour the mask.

        Parameters
        ----------
        query : [B, Hq, 1, D], or [B, Hk, Hq / Hk, D] as transformers packs it.
        mask : None, or what ``scaled_dot_product_attention`` takes, for the one new token.
        scale, softcap : of the logits.
        """
        h, s, shared = self.hierarchy, self.settings, self.shared
        shared.record.began(self)
        B, D = query.shape[0], query.shape[-1]
        q, probe = query.reshape(B, -1, 1, D), None
        scale = D**-0.5 if scale is None else scale
        if h.rotation is not None:
            # As if every centroid stood rope_offset tokens before the query.
            place = torch.full((1,), s.rope_offset - (h.length - 1), device=q.device)
            probe = h.rotation.rotate(q, place)
        h.watch(q if probe is None else probe)  # what is asked of the centroids
        prompt = not h.blocks and not self.short_steps
        joins = shared.may_join(h, prompt)
        if not h.blocks and not joins:
            return self._attend_short(q, mask, scale, softcap, query.shape)
        if not self._honours(mask):
            self.dense_steps += 1
            return None
        if joins:
            with shared.record.joining(q.device, first=prompt):
                h.join()
        shares = s.shares and len(shared.layers) > 1 and softcap is None
        number = shared.number(self)
        weighs, seen = shares and self.portion.due(number), shared.seen(number)
        out, error = run_step(self, q, probe, scale, softcap, shares, weighs, seen)
        if weighs:
            self.portion.note(error)
            shared.share_budget(self.portion)
        if seen is not None:
            shared.trace.steps.append(traced(number, h, seen, q.shape[1] // h.keys.buffer.shape[1]))
        return out.view(*query.shape[:-1], -1)

    def _attend_short(
        self, q: Tensor, mask: Tensor | None, scale: float, softcap: float | None, shape: torch.Size
    ) -> Tensor | None:
        """The step of a text without clusters, in the query's shape; None where the model's own attention is needed."""
        self.short_steps, number = self.short_steps + 1, self.shared.number(self)
        if (seen := self.shared.seen(number)) is not None:
            self.shared.trace.steps.append(traced(number, self.hierarchy, seen, 1))
        out = None if softcap is not None else attend_densely(self.hierarchy, q, mask, scale)
        return None if out is None else out.view(*shape[:-1], -1)

    def _honours(self, mask: Tensor | None) -> bool:
        """Whether the decode step gives what this mask wants; what it hides is noted."""
        if mask is not None:
            return self.shared.masks.learn(self.hierarchy, mask)
        h = self.hierarchy
        if not h.blocks:  # whatever a prompt's mask has hidden is seen now
            h.valid = None
        return h.valid is None or bool(h.valid.all())

    def get_seq_length(self) -> int:
        """Tokens stored."""
        return self.hierarchy.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a mask covers."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    get_max_cache_shape = get_max_length  # its name in transformers before 5.20

    def reset(self) -> None:
        """Forget everything."""
        self.hierarchy.clear()
        self.portion, self.fixed, self.shared.record = Portion(), None, Record()
        self.dense_steps = self.short_steps = 0

    @kept
    def crop(self, tokens: int) -> None:
        """Remove the last ``-tokens`` tokens; a positive number is the length to keep (transformers 4)."""
        length = self.get_seq_length()
        self.hierarchy.truncate(max(0, length + tokens) if tokens <= 0 else tokens)

    def reorder_cache(self, beam_idx: Int[Tensor, " B"]) -> None:
        """Beam search: entry i continues what entry ``beam_idx[i]`` was."""
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor | Sequence[int]) -> None:
        """Keep only some texts of the batch; whatever indexes a tensor's first dimension, or a boolean mask."""
        if self.is_initialized:
            every = torch.arange(self.batch_size, device=self.hierarchy.keys.buffer.device)
            self._select(every[indices, ...])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every text of the batch ``repeats`` times."""
        if self.is_initialized:
            every = torch.arange(self.batch_size, device=self.hierarchy.keys.buffer.device)
            self._select(every.repeat_interleave(repeats))

    @kept
    def _select(self, index: Int[Tensor, " B2"]) -> None:
        self.hierarchy.select(index)
        self.portion.select(index)

    def offload(self) -> None:
        """Not offered."""
        raise NotImplementedError("MultipoleCache stays on the model's device")

    prefetch = offload
