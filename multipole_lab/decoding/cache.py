"""``MultipoleCache``: a transformers cache whose old keys are clustered."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from transformers.cache_utils import DynamicSlidingWindowLayer

from multipole_lab.decoding.in_graph import Slot, show_sdpa_slots, ticket
from multipole_lab.decoding.layer import ClusteredLayer
from multipole_lab.decoding.not_offered import NotOffered
from multipole_lab.decoding.record import bytes_of, told
from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.shared import Shared
from multipole_lab.decoding.step.trace import Trace
from multipole_lab.decoding.store.rope import rotation_of
from multipole_lab.decoding.windows import windows_of
from multipole_lab.interface.handle import show_flex_attention_true_tensors
from multipole_lab.printing import changed, count
from multipole_lab.suggesting import suggesting

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel


class MultipoleCache(NotOffered):
    """Decode over clusters of keys, with the best ones summed exactly and the others through their centroids.

    ``model.generate(ids, past_key_values=ml.MultipoleCache())`` is all for a model whose attention function
    is ``sdpa``, transformers' default. Inside ``with cache.on(model):`` any attention function will do,
    soft-capped logits (Gemma 2) included. Otherwise the model gets exact dense attention and a warning.

    Several tokens at once (a prompt, a further message) are attended exactly; each single new token through
    ``decode_step``. ``torch.compile(model)`` and the compiled steps of ``generate``, which it takes by itself on a GPU
    (``disable_compile=True`` does without), work with ``sdpa`` and inside ``cache.on(model)``: a layer's step is one
    node of the graph. Batches, left padding, beam search, ``crop``, ``reset`` and copies work as for ``DynamicCache``.
    For inference only, also inside ``torch.inference_mode``. A row is one text: packed ones (``position_ids`` begin
    again) are not kept apart where there is a cache; an eager model inside ``cache.on(model)`` refuses them.

    Parameters
    ----------
    fraction : centroids per key.
    outliers : further centroids per key, of the keys farthest from theirs; 1/16 costs as many centroids again.
    sketch : whether clusters are chosen by all their keys, of each of which two bits a coordinate tell where it lies
        beside its centroid (``store/sketch.py``): 7% more memory. None: by the kernels alone; torch unpacks all keys.
    budget : keys of opened clusters that each key/value head sums exactly for one token: an integer, or a
        float in (0, 1] as a share of the context; None to leave it to ``top_p``.
    top_p : stop choosing once the exact keys are estimated to hold this share of the softmax mass.
    levels : 1, or 2 for clusters of clusters: their scores prune which centroids are looked up.
    branch : with two levels, fine clusters per coarse one.
    lookups : with two levels, the share of the fine clusters that a step looks at, but at least 256.
    sinks, recent : first and last keys, always exact.
    interval : new keys join clusters this many at a time; until then they are exact.
    block : keys clustered together. Joining re-clusters the last block only.
    iterations : Lloyd iterations of a new block; each join adds one.
    spread : share, 0 to 1, of the second-order term in a cluster's estimated mass; errors were smallest near 0.8.
    watch : steps before each join whose queries say how much each coordinate of a key matters (``metric.py``); 0
        clusters by the plain distance, at twice the error on real keys.
    balance : whether the key/value heads of all layers share the budget by their expected error (``balance.py``),
        instead of each having the same. Its mean over heads stays; it halves the KL divergence on real text. It
        needs ``replacement`` and ``spread``, more than one layer, and logits without a softcap.
    cap : the largest cluster over the mean one, None for no limit.
    replacement : whether clusters that are not summed exactly count through their centroids.
    rope : "rotated" clusters keys as they are cached; "windowed" clusters them with RoPE undone and looks them up as if
        all stood ``rope_offset`` tokens back (needs ``config``). Exact keys always have their true rotation.
    rope_offset : see ``rope``.
    seed : of the clusterings; the same seed gives the same text.
    dense_until : keys of a text below which nothing is clustered and every step is dense and exact; None for where
        clusters begin to pay (``store/short.py``): on a CPU where the keys and values of a layer take 20 MB, on a
        GPU at once.
    backend : "auto", "torch" or "triton": what computes the output of every step.
    config : the model's configuration: gives layers with a sliding window a cache of that size, and RoPE for
        "windowed". Without it such layers store all keys and stay exact.

    Raises
    ------
    ValueError, TypeError
        On creation, for a value outside these. While the model runs: layers that keep a state instead of keys and
        values (Mamba, convolutions), which hybrid models have.
    NotImplementedError : ``offload`` and ``prefetch``; the cache stays on the model's device.

    References
    ----------
    Multipole Attention, arXiv 2506.13059.
    """

    @suggesting
    def __init__(
        self,
        fraction: float = Settings.fraction,
        budget: int | float | None = Settings.budget,
        levels: int = Settings.levels,
        sinks: int = Settings.sinks,
        recent: int = Settings.recent,
        *,
        outliers: float = Settings.outliers,
        sketch: bool | None = Settings.sketch,
        top_p: float | None = Settings.top_p,
        branch: int = Settings.branch,
        lookups: float = Settings.lookups,
        interval: int = Settings.interval,
        block: int = Settings.block,
        iterations: int = Settings.iterations,
        spread: float = Settings.spread,
        watch: int = Settings.watch,
        balance: bool = Settings.balance,
        cap: float | None = Settings.cap,
        replacement: bool = Settings.replacement,
        rope: Literal["rotated", "windowed"] = Settings.rope,
        rope_offset: int = Settings.rope_offset,
        seed: int = Settings.seed,
        dense_until: int | None = Settings.dense_until,
        backend: Literal["auto", "torch", "triton"] = Settings.backend,
        config: PreTrainedConfig | None = None,
    ) -> None:
        self.settings = Settings(
            fraction=fraction, outliers=outliers, sketch=sketch, budget=budget, levels=levels, sinks=sinks,
            recent=recent, top_p=top_p, branch=branch, lookups=lookups, interval=interval, block=block, cap=cap,
            iterations=iterations, spread=spread, watch=watch, balance=balance, replacement=replacement, rope=rope,
            rope_offset=rope_offset, seed=seed, dense_until=dense_until, backend=backend,
        )  # fmt: skip
        rotation = None
        if self.settings.rope == "windowed":
            if config is None:
                raise ValueError("rope='windowed' needs config=model.config, to undo the model's rotation")
            rotation = rotation_of(config)
        show_flex_attention_true_tensors()
        show_sdpa_slots()
        self._ticket = ticket(self)
        self._shared = Shared()
        make = partial(ClusteredLayer, self.settings, rotation, self._shared)
        windows = windows_of(config)
        if any(windows):
            layers = [DynamicSlidingWindowLayer(sliding_window=w) if w else make() for w in windows]
            super().__init__(layers=layers)
        else:
            super().__init__(layer_class_to_replicate=make)
        self._shared.layers = self.layers

    @property
    def is_compileable(self) -> bool:
        """Yes: a layer's step is one node of a graph of ``torch.compile``, in which attention is ``sdpa`` or ours.

        No while a model called by itself makes a step's masks: transformers would write out each, though it hides
        nothing. ``generate`` asks before it makes them itself, for steps that may be compiled, and is told yes.
        """
        if torch.compiler.is_compiling():
            return True
        self._shared.asked = not self._shared.masking
        return self._shared.asked

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """See ``Cache``; asked for by what makes masks."""
        if not torch.compiler.is_compiling():
            self._shared.masking = not self._shared.asked
        return super().get_mask_sizes(query_length, layer_idx)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor] | tuple[Slot, Slot]:
        """See ``Cache``; in a graph of ``torch.compile`` they are stored when the graph runs (``in_graph.py``)."""
        if torch.compiler.is_compiling():
            return (Slot(self._ticket, layer_idx, key_states, value_states),) * 2
        self._shared.masking = self._shared.asked = False
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._ticket = ticket(self)  # a copy is another cache

    def __repr__(self) -> str:
        held = self.get_seq_length()
        filled = f" holding {count(held, 'token')} in {count(len(self.layers), 'layer')}" if held else ""
        return changed(self.settings).replace("Settings", type(self).__name__, 1) + filled

    @property
    def attends_densely(self) -> bool:
        """Whether nothing is in a cluster, so that every step is dense and exact: the text is too short to gain."""
        return not any(isinstance(one, ClusteredLayer) and one.hierarchy.blocks for one in self.layers)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes held: keys, values, centroids (with values, counts, sketches), index, scratch; and their total.

        Spare space of the buffers is included; scratch are the buffers of a step, which all layers share.
        """
        return bytes_of(self.layers, self._shared.nbytes)

    def report(self) -> str:
        """In plain words: what is held, where the prompt's time went, what the last steps cost and read; to print.

        Times are the device's own where that is a GPU, which is waited for here and in no step.
        """
        clustered = [layer for layer in self.layers if isinstance(layer, ClusteredLayer)]
        return told(self._shared.record, self.layers, clustered)

    @contextmanager
    def on(self, model: PreTrainedModel) -> Iterator[MultipoleCache]:
        """Send a model's attention through this cache whatever its attention function; undone on exit."""
        # Models stand above decoding in the library, so this import waits until it is asked for.
        from multipole_lab.decoding.interface import NAME
        from multipole_lab.interface.functions import attention_implementation

        with attention_implementation(model, NAME):
            yield self

    @contextmanager
    def trace(self, layers: Collection[int] | None = None) -> Iterator[Trace]:
        """Record what every decoding step looks at and reads, until the context ends.

        ``with cache.trace(layers=[15]) as trace: model.generate(...)`` fills ``trace.steps`` with a ``TracedStep``
        per new token and layer: which clusters were looked at and opened, with what estimated mass, and which
        keys of the text were exact. The record is that of what makes the output, kernels or torch. A step takes about
        ``B Hk (8 budget + 10 clusters)`` bytes; several tokens at once are exact and leave no step.

        Parameters
        ----------
        layers : the layers to record; None for all.
        """
        before, self._shared.trace = self._shared.trace, Trace(layers)
        try:
            yield self._shared.trace
        finally:
            self._shared.trace = before

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values of every layer in the text's order, as ``DynamicCache(cache)`` wants them."""
        for layer in self.layers:
            yield layer.keys, layer.values

    def save(self, path: str | Path) -> Path:
        """Write everything to a safetensors file; ``MultipoleCache.load`` continues from it."""
        from multipole_lab.decoding.saving import save

        return save(self, path)

    @classmethod
    def load(
        cls, path: str | Path, config: PreTrainedConfig | None = None, device: str = "cpu"
    ) -> MultipoleCache:
        """A cache as ``save`` wrote it; ``config`` where it was made with one."""
        from multipole_lab.decoding.saving import load

        return load(cls, path, config, device)
