"""`multipole-lab eval generate`: how a model decodes through ``MultipoleCache``, against dense decoding.

Teacher-forced: after a prompt of the text both read the text's next tokens one by one; compared are the loss
of the true next token, the most likely token and the distribution. Free: both generate greedily from the
prompt until they differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from multipole_lab import files
from multipole_lab.evaluation.texts import READING, TOPICS, read_text, token_ids
from multipole_lab.interface.cache_name import with_cache

SUMMARY = "decoding through MultipoleCache against dense decoding"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``eval generate``."""
    add = parser.add_argument
    add("--model", default="smollm2", help="smollm2, a hub id or a folder; default: smollm2")
    add("--text", metavar="FILE", default=READING, help=f"a text file in UTF-8, {TOPICS} for the help texts of "
        f"Python, or {READING} for the lab's own text; default: {READING}")  # fmt: skip
    add("--prompt", type=int, default=4096, metavar="N", help="tokens of the prompt; default: 4096")
    add("--tokens", type=int, default=64, metavar="N", help="tokens decoded after it; default: 64")
    add("--budget", type=float, nargs="+", default=[0.05], help="keys (128) or shares (0.05); default: 0.05")
    add("--levels", type=int, nargs="+", default=[2], choices=[1, 2], help="default: 2")
    add("--no-replacement", action="store_true", help="also without centroid replacement")
    add("--free", action="store_true", help="also generate freely and report the first difference")
    add("--device", default="cpu", help="default: cpu")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="default: float32")
    add("--threads", type=int, help="threads of torch; default: its own choice")
    add("--json", type=Path, metavar="FILE", help="also write the rows to FILE")


def run(args: argparse.Namespace) -> int:
    """Print one row a setting; returns the exit status."""
    import torch

    from multipole_lab.models.loading import load_model

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        model, tokenizer = load_model(args.model, device=args.device, dtype=getattr(torch, args.dtype))
        ids = read_tokens(tokenizer, args.text, args.prompt + args.tokens + 1).to(args.device)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"multipole-lab eval generate: {error}", file=sys.stderr)
        return 1
    rows = []
    with torch.no_grad():
        start = prefill(model, ids[:, : args.prompt])
        dense = forced(model, ids, args.prompt, start)
        free = generated(model, ids[:, : args.prompt], args.tokens, start) if args.free else None
        for settings in _settings(args):
            rows.append(compare(model, ids, args.prompt, settings, dense, start, free))
            _print(rows[-1], first=len(rows) == 1)
    if args.json:
        from multipole_lab.environment import Measured
        from multipole_lab.models.samples.provenance import describe_model

        measured = Measured.here(args.device, model.dtype, "multipole-lab eval generate")
        record = {**measured.facts(), "model": describe_model(model), "rows": rows}
        files.write(args.json, json.dumps(record, indent=1) + "\n")
    return 0


def _settings(args: argparse.Namespace) -> list[dict]:
    found = []
    for budget in args.budget:
        for levels in args.levels:
            one = {"budget": budget if 0 < budget < 1 else int(budget), "levels": levels}
            found.append(one)
            if args.no_replacement:
                found.append({**one, "replacement": False})
    return found


def read_tokens(tokenizer: object, source: str, wanted: int):
    """The first tokens of a text, [1, wanted]; ``source`` as for ``--text``.

    Raises
    ------
    ValueError : a text that cannot be read (see ``texts.read_text``), or one with too few tokens.
    """
    import torch

    ids = token_ids(tokenizer, read_text(source), wanted)
    if len(ids) < wanted:
        raise ValueError(f"{source} has {len(ids)} tokens; prompt and decoded tokens need {wanted}")
    return torch.tensor([ids])


def prefill(model: object, prompt):
    """Every layer's keys and values after the prompt, read once for all settings."""
    from transformers import DynamicCache

    cache = DynamicCache()
    model(prompt[:, :-1], **with_cache(model, cache), logits_to_keep=1)
    return [(layer.keys, layer.values) for layer in cache.layers]


def started(cache: object, start: list):
    """A cache with the prompt in it."""
    for i, (keys, values) in enumerate(start):
        cache.update(keys, values, i)
    return cache


def forced(model: object, ids, prompt: int, start: list, cache: object = None):
    """Log-probabilities [n, vocabulary] after each of the text's tokens from the prompt's last one on."""
    import torch
    from transformers import DynamicCache

    cache = started(DynamicCache() if cache is None else cache, start)
    outs = []
    for t in range(prompt - 1, ids.shape[1] - 1):
        logits = model(ids[:, t : t + 1], **with_cache(model, cache)).logits[0, -1]
        outs.append(logits.float().log_softmax(-1))
    return torch.stack(outs).cpu()


def generated(model: object, prompt, tokens: int, start: list, cache: object = None) -> list[int]:
    """Greedy tokens after a prompt."""
    from transformers import DynamicCache

    cache = started(DynamicCache() if cache is None else cache, start)
    out = model.generate(
        prompt,
        **with_cache(model, cache),
        max_new_tokens=tokens,
        do_sample=False,
        attention_mask=prompt * 0 + 1,
    )
    return out[0, prompt.shape[1] :].tolist()


def compare(model: object, ids, prompt: int, settings: dict, dense, start: list, free: list | None) -> dict:
    """One row: loss, agreement and divergence from dense decoding."""
    from multipole_lab.decoding import MultipoleCache

    ours = forced(model, ids, prompt, start, MultipoleCache(dense_until=0, **settings))
    true = ids[0, prompt:].unsqueeze(-1).cpu()
    row = {
        **settings,
        "tokens": len(true),
        "dense_loss": -dense.gather(1, true).mean().item(),
        "loss": -ours.gather(1, true).mean().item(),
        "agreement": (ours.argmax(-1) == dense.argmax(-1)).double().mean().item(),
        "kl": statistics.mean((dense.double().exp() * (dense.double() - ours)).sum(-1).tolist()),
    }
    row["loss_above_percent"] = 100 * (row["loss"] / row["dense_loss"] - 1)
    if free is not None:
        got = generated(
            model, ids[:, :prompt], row["tokens"] - 1, start, MultipoleCache(dense_until=0, **settings)
        )
        differing = [i for i, (a, b) in enumerate(zip(got, free, strict=False)) if a != b]
        row["first_difference"] = differing[0] if differing else None
    return row


def _print(row: dict, first: bool) -> None:
    if first:
        print(
            f"{'budget':>8} {'levels':>6} {'repl.':>6} {'dense loss':>10} {'loss':>8} {'above':>8} "
            f"{'agree':>7} {'KL':>9}"
        )
    print(
        f"{row['budget']:8g} {row['levels']:6d} {'yes' if row.get('replacement', True) else 'no':>6} "
        f"{row['dense_loss']:10.4f} {row['loss']:8.4f} {row['loss_above_percent']:+7.3f}% "
        f"{row['agreement']:7.4f} {row['kl']:9.6f}"
        + (f"  differs first at {row['first_difference']}" if "first_difference" in row else "")
    )
