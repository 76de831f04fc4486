"""The model ``multipole`` of lm-eval: its ``hf`` with a method, or a clustered cache, in place of the attention.

Importing this module enters the name: ``lm_eval.simple_evaluate(model="multipole", model_args={"pretrained": folder,
"method": "MuSe(near=4)"}, ...)``. On the command line ``multipole-lab eval lm-eval run --model multipole ...`` does so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from unittest.mock import patch

import torch
from torch import Tensor

from multipole_lab.decoding.cache import MultipoleCache
from multipole_lab.extras import MissingPackage
from multipole_lab.interface.cache_name import with_cache
from multipole_lab.method_text import as_text, parse_method

try:
    from lm_eval.api.registry import register_model
    from lm_eval.models import huggingface
except ModuleNotFoundError as error:
    raise MissingPackage(f"this model needs {error.name}: pip install lm-eval", name=error.name) from error


@register_model("multipole")
class MultipoleLM(huggingface.HFLM):
    """lm-eval's ``hf`` with a method as its attention.

    Parameters
    ----------
    pretrained : a folder, a hub id or a model, as for ``hf``; so are all others that are not named here.
    method : a method as text, such as ``MuSe(near=4)``. A ``MultipoleCache`` reads prompts exactly and generates from
        clusters; log-likelihoods, which are of prompts, are then those of ``hf``.
    layers : some layers only, joined by "+": ``layers=3+4+5``; or a number.
    strict : refuse what the method cannot honour instead of leaving such calls to the model's own attention.

    Attributes
    ----------
    calls : "approximated" and the reasons why calls of attention stayed exact, with their numbers.
    """

    def __init__(
        self,
        pretrained: object,
        method: str = "Exact()",
        layers: str | int | None = None,
        strict: bool = False,
        **kwargs: object,
    ) -> None:
        super().__init__(pretrained, **kwargs)
        if self.backend != "causal":
            raise ValueError(
                f"{type(self.model).__name__} has an encoder and a decoder; a causal model is needed"
            )
        self.method = parse_method(method, self.model.config)
        self.layers = None if layers is None else [int(layer) for layer in str(layers).split("+")]
        self.strict = strict
        self.calls: Counter[str] = Counter()
        self._lengths: list[int] | None = None

    def _loglikelihood_tokens(self, *args: object, **kwargs: object) -> list:
        """As ``hf``, which pads rows on the right and names the padding to nobody: their lengths are noted here."""
        pad = huggingface.pad_and_concat

        def noting(length: int, rows: list[Tensor], padding_side: str = "right") -> Tensor:
            self._lengths = [row.shape[-1] for row in rows]
            return pad(length, rows, padding_side=padding_side)

        try:
            with patch.object(huggingface, "pad_and_concat", noting):
                return super()._loglikelihood_tokens(*args, **kwargs)
        finally:
            self._lengths = None

    def _model_call(
        self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        if isinstance(self.method, MultipoleCache) or self._lengths is None:
            with self._attending():
                return super()._model_call(inps)
        ends = torch.tensor(self._lengths, device=inps.device)
        mask = torch.arange(inps.shape[1], device=inps.device) < ends[:, None]
        precision = self.mixed_precision_dtype
        with (
            self._attending(),
            torch.no_grad(),
            torch.autocast(self.device.type, precision, precision is not None),
        ):
            return self.model(inps, attention_mask=None if bool(mask.all()) else mask.long()).logits

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **kwargs: object) -> Tensor:
        with self._attending() as cache:
            if cache is not None:
                kwargs |= with_cache(self.model, cache)
            return super()._model_generate(context, max_length, stop, **kwargs)

    @contextmanager
    def _attending(self) -> Iterator[MultipoleCache | None]:
        """The model attends by the method; gives a fresh clustered cache where that is it."""
        if isinstance(self.method, MultipoleCache):
            fresh = MultipoleCache(config=self.model.config, **asdict(self.method.settings))
            with fresh.on(self.model):
                yield fresh
            return
        with self.method.on(self.model, self.layers, self.strict) as drop_in:
            yield None
        if drop_in.approximated:
            self.calls["approximated"] += drop_in.approximated.total()
        for (_, reason), count in drop_in.exact.items():
            self.calls[reason] += count

    def get_model_info(self) -> dict:
        """As ``hf`` writes it beside results, and the method with its calls."""
        return {
            **super().get_model_info(),
            "method": as_text(self.method),
            "attention_calls": dict(self.calls),
        }
