"""One `model.generate` with one cache, clocked token by token: what `bench generate` repeats for every side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, CompileConfig, LogitsProcessor, PreTrainedModel
from transformers.utils import logging

from multipole_lab.interface.cache_name import with_cache


@dataclass(frozen=True)
class Side:
    """A cache to generate with.

    Attributes
    ----------
    name : as rows have it.
    make : the empty cache, from its batch and the most keys it will hold.
    compiled : whether ``generate`` compiles the model's steps, as it does by itself with a static cache on a GPU.
    ours : whether it is a clustered one, which is compared with the others.
    """

    name: str
    make: Callable[[int, int], Cache]
    compiled: bool = False
    ours: bool = False


@dataclass
class Generated:
    """What one run gave: ``times`` of all tokens in milliseconds, the first one's with the prompt.

    ``log_probs`` are those of every token behind the first, on the host; ``tokens`` [B, new] are what was generated.
    """

    times: list[float]
    log_probs: list[Float[Tensor, "B V"]]
    tokens: Int[Tensor, "B new"]
    cache_bytes: int
    peak_bytes: int | None

    def figures(self) -> dict[str, float | None]:
        """Of a row: the first token, the first step (which clusters a prompt), and all steps with that one."""
        first, steps = self.times[0], self.times[1:]
        ordered = sorted(steps)
        return {
            "first_token_ms": first,
            "first_step_ms": steps[0],
            "mean_ms": statistics.fmean(steps),
            "median_ms": statistics.median(steps),
            "p99_ms": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
            "max_ms": ordered[-1],
            "total_s": sum(self.times) / 1e3,
            "cache_megabytes": self.cache_bytes / 1e6,
            "peak_megabytes": None if self.peak_bytes is None else self.peak_bytes / 1e6,
        }


@dataclass
class Clock(LogitsProcessor):
    """Looks at the clock whenever ``generate`` has logits, and sends it on with a given token, or the likeliest one.

    What it does itself is not in the times.
    """

    tokens: Int[Tensor, "B new"] | None
    times: list[float] = field(default_factory=list)
    log_probs: list[Tensor] = field(default_factory=list)

    def start(self, device: torch.device) -> None:
        """The prompt goes in now."""
        self.device, self.left = device, _now(device)

    def __call__(self, input_ids: Tensor, scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """See ``LogitsProcessor``."""
        self.times.append(1e3 * (_now(self.device) - self.left))
        if self.times[1:]:
            self.log_probs.append(scores.float().log_softmax(-1).cpu())
        if self.tokens is not None:
            wanted = self.tokens[:, len(self.times) - 1, None].to(scores.device)
            scores = torch.full_like(scores, -torch.inf).scatter(1, wanted, 0.0)
        self.left = _now(self.device)
        return scores


def generated(
    model: PreTrainedModel,
    ids: Int[Tensor, "B N"],
    new: int,
    side: Side,
    tokens: Int[Tensor, "B new"] | None = None,
    compiler: str = "inductor",
) -> Generated:
    """Generate ``new`` tokens behind a prompt.

    Parameters
    ----------
    model : whose configuration names no token that ends a text.
    tokens : what is generated whatever the logits say, so that all sides read the same; None for the likeliest.
    compiler : torch.compile's backend for compiled sides.
    """
    clock, cuda = Clock(tokens), ids.is_cuda
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(ids.device)
        before = torch.cuda.memory_allocated(ids.device)
    cache = side.make(ids.shape[0], ids.shape[1] + new)
    options: dict = {"disable_compile": True}
    if side.compiled:
        options = {"compile_config": CompileConfig(backend=compiler)}
        options["compile_config"]._compile_all_devices = True
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # of what it says about options that are meant
    try:
        clock.start(ids.device)
        out = model.generate(
            ids,
            **with_cache(model, cache),
            max_new_tokens=new,
            do_sample=False,
            logits_processor=[clock],
            **options,
        )
    finally:
        logging.set_verbosity(level)
    peak = torch.cuda.max_memory_allocated(ids.device) - before if cuda else None
    return Generated(clock.times, clock.log_probs, out[:, ids.shape[1] :].cpu(), nbytes(cache), peak)


def divergence(reference: Generated, other: Generated) -> float:
    """The mean KL divergence of another run's tokens from the reference's, in nats a token.

    ``q - p`` sums to nothing but what rounding has left in the sums of probabilities.
    """
    found = []
    for p, q in zip(reference.log_probs, other.log_probs, strict=True):
        p, q = p.double(), q.double()
        found.append((p.exp() * (p - q) + q.exp() - p.exp()).sum(-1).mean().item())
    return statistics.fmean(found)


def nbytes(cache: Cache) -> int:
    """Bytes that a cache holds, its spare space included."""
    held = getattr(cache, "nbytes", None)
    if held is not None:
        return held["total"]
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
