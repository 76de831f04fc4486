"""A causal language model that reads with dense attention, with a method, or from a clustered cache."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from multipole_lab.decoding.cache import MultipoleCache
from multipole_lab.evaluation import DENSE
from multipole_lab.interface.cache_name import with_cache
from multipole_lab.method_text import as_text, parse_method

# Logits computed at a time: at 8,192 tokens and 49,152 words all of them would be 1.6 GB.
TILE = 1 << 24


class Reader:
    """One model under one way of attending.

    Parameters
    ----------
    model : a causal language model of transformers, in evaluation mode.
    method : "dense" for the model's own attention, or a method as text (``method_text``). A method stands in
        for the attention of every layer. A ``MultipoleCache`` reads a prompt exactly and then token by token.

    Raises
    ------
    ValueError : a model without a language-modelling head, or whose attention no method can replace (it is named); a
        text that is no method.
    """

    def __init__(self, model: PreTrainedModel, method: str = DENSE) -> None:
        self.model, self.head = model, Head(model)
        self.method = None if method == DENSE else parse_method(method, model.config)
        self.name = DENSE if self.method is None else as_text(self.method)
        self.calls: Counter[str] = Counter()
        self._probe()  # refuses now, and not after an hour of dense attention

    @property
    def decodes(self) -> bool:
        """Whether this reads token by token from a clustered cache."""
        return isinstance(self.method, MultipoleCache)

    @torch.no_grad()
    def hidden(self, ids: Int[Tensor, " N"], exact: int = 1) -> Float[Tensor, "N W"]:
        """The last hidden states, before the language-modelling head.

        Parameters
        ----------
        ids : [N] token ids.
        exact : a ``MultipoleCache`` reads that many tokens at once, exactly, and the others one by one.
        """
        with self._attending() as cache:
            if not self.decodes:
                return self._read(ids)
            return torch.cat([self._read(part, cache) for part in (ids[:exact], *ids[exact:].split(1))])

    @torch.no_grad()
    def option_logprobs(
        self, context: list[int], question: list[int], options: list[list[int]]
    ) -> list[float]:
        """The log-likelihood of each option after context and question, in nats.

        A ``MultipoleCache`` reads the context exactly, question and options token by token. Other methods read
        context and question at once.

        Parameters
        ----------
        context, question : token ids; at least one in all.
        options : token ids of each, at least one.
        """
        device = self.model.device
        with self._attending() as cache:
            cache = DynamicCache(config=self.model.config) if cache is None else cache
            head = context if self.decodes else context + question
            last = self._read(torch.tensor(head, device=device), cache)[-1:] if head else None
            if self.decodes and question:
                last = self._continue(question, cache)[-1:]
            first = self.head(last).float().log_softmax(-1)[0]
            scores = []
            for option in options:
                score = first[option[0]].item()
                if len(option) > 1:
                    hidden = self._continue(option[:-1], copy.deepcopy(cache))
                    score -= self.head.losses(hidden, torch.tensor(option[1:], device=device)).sum().item()
                scores.append(score)
        return scores

    @torch.no_grad()
    def write(self, ids: list[int], tokens: int) -> list[int]:
        """The likeliest continuation, at most that many tokens, by the model's own ``generate``.

        A method attends over the prompt and leaves single tokens to exact attention where it says so; a
        ``MultipoleCache`` reads the prompt exactly and writes from clusters.
        """
        prompt = torch.tensor([ids], device=self.model.device)
        with self._attending() as cache:
            given = {} if cache is None else with_cache(self.model, cache)
            given |= {"max_new_tokens": tokens, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
            if self.model.generation_config.pad_token_id is None:
                given["pad_token_id"] = 0  # of one row, which has none
            return self.model.generate(prompt, **given)[0, len(ids) :].tolist()

    def taken_calls(self) -> dict[str, int]:
        """Calls of attention since the last question: "approximated", and reasons why others stayed exact."""
        calls, self.calls = self.calls, Counter()
        return dict(calls)

    @contextmanager
    def _attending(self) -> Iterator[MultipoleCache | None]:
        """The model attends in this reader's way; gives a fresh clustered cache where it needs one."""
        if self.method is None:
            yield None
        elif self.decodes:
            settings = asdict(self.method.settings)
            settings["dense_until"] = settings["dense_until"] or 0  # what clusters cost is the question
            fresh = MultipoleCache(config=self.model.config, **settings)
            with fresh.on(self.model):
                yield fresh
        else:
            with self.method.on(self.model, strict=True) as drop_in:
                yield None
            self.calls.update({"approximated": drop_in.approximated.total()} if drop_in.approximated else {})
            for (_, reason), count in drop_in.exact.items():
                self.calls[reason] += count

    @torch.no_grad()
    def _probe(self) -> None:
        """Read three tokens: what the method cannot honour in this model is refused."""
        if self.method is None:
            return
        ids = torch.tensor([0, 1, 0], device=self.model.device)
        with self._attending() as cache:
            for part in ids.split((2, 1) if self.decodes else 3):
                self._read(part, cache)
        if not self.decodes and not self.taken_calls():
            raise ValueError(
                f"{type(self.model).__name__} never called {self.name}, which would have no effect"
            )

    def _continue(self, ids: list[int], cache) -> Tensor:
        """Hidden states of further tokens: at once, or one by one from a clustered cache."""
        ids = torch.tensor(ids, device=self.model.device)
        return torch.cat([self._read(part, cache) for part in (ids.split(1) if self.decodes else (ids,))])

    def _read(self, ids: Int[Tensor, " n"], cache=None) -> Float[Tensor, "n W"]:
        arguments = {"use_cache": False} if cache is None else with_cache(self.model.base_model, cache)
        return self.model.base_model(input_ids=ids[None], **arguments).last_hidden_state[0]


class Head:
    """Logits from the last hidden states, as the model itself computes them, for a few tokens at a time.

    Raises
    ------
    ValueError : a model without such a head, or whose head does something else besides.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        name = type(model).__name__
        self.embeddings = model.get_output_embeddings()
        if self.embeddings is None or model.config.is_encoder_decoder or model.base_model is model:
            raise ValueError(
                f"{name} is no causal language model: it has no head that predicts the next token"
            )
        config = model.config.get_text_config()
        self.softcap = getattr(config, "final_logit_softcapping", None)
        self.factor = getattr(config, "logit_scale", None) or 1 / (
            getattr(config, "logits_scaling", None) or 1
        )
        ids = torch.arange(8, device=model.device)[None] % config.vocab_size
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            whole = model(input_ids=ids, use_cache=False).logits
        if not torch.allclose(self(hidden), whole, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"{name} does not make its logits from the last hidden states by its output embeddings"
            )

    def __call__(self, hidden: Float[Tensor, "*n W"]) -> Float[Tensor, "*n V"]:
        """The logits."""
        logits = self.embeddings(hidden) * self.factor
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def losses(self, hidden: Float[Tensor, "n W"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Cross-entropy of each target, nats, float64."""
        parts = [
            torch.nn.functional.cross_entropy(self(h).float(), t, reduction="none").double()
            for h, t in zip(self._tiles(hidden), self._tiles(targets), strict=True)
        ]
        return torch.cat(parts)

    def divergences(
        self, ours: Float[Tensor, "n W"], dense: Float[Tensor, "n W"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """KL(dense || ours) in nats, and 1 where the most likely token is the same, of every position."""
        kls, same = [], []
        for ours_tile, dense_tile in zip(self._tiles(ours), self._tiles(dense), strict=True):
            p, q = (self(h).float().log_softmax(-1) for h in (dense_tile, ours_tile))
            kls.append((p.exp() * (p - q)).sum(-1).double())
            same.append((p.argmax(-1) == q.argmax(-1)).double())
        return torch.cat(kls), torch.cat(same)

    def _tiles(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(max(1, TILE // self.embeddings.weight.shape[0]))


def weights_digest(model: PreTrainedModel) -> str:
    """Twelve digits that change when a model is trained further: a hash over the start of each weight."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(name.encode())
        digest.update(weight.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
