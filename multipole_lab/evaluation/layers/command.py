"""`multipole-lab eval layers`: which layers of a model to replace, and by what, to stay under a loss."""

from __future__ import annotations

import argparse
import sys

from multipole_lab.evaluation.texts import READING, TOPICS, read_text, token_ids

METHODS = ["MuSe(near=4)", "MuSe(near=16)", "MuSe(partition='runs')"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``eval layers``."""
    add = parser.add_argument
    add("--model", default="smollm2", help="smollm2, a hub id or a folder; default: smollm2")
    add("--method", action="append", metavar="METHOD", help="what layers may have instead of exact attention; may be "
        f"repeated; default: {', '.join(METHODS)}")  # fmt: skip
    add("--max-above", type=float, metavar="PERCENT", help="loss above dense attention's that is allowed")
    add("--max-kl", type=float, metavar="NATS", help="KL from dense attention that is allowed, a token")
    add("--text", default=TOPICS, help=f"chosen by this: a text file in UTF-8, {READING!r} or {TOPICS!r}; default: "
        f"{TOPICS!r}")  # fmt: skip
    add("--held-out", default=READING, metavar="TEXT", help=f"measured on this; default: {READING!r}")
    add("--max-tokens", type=int, default=4096, metavar="N", help="tokens of a window; default: 4096")
    add("--windows", type=int, default=1, metavar="N", help="windows of each text; default: 1")
    add("--device", default="cpu", help="where the model runs; default: cpu")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="default: float32")
    add("--threads", type=int, metavar="N", help="threads of torch; default: its own choice")
    add("--json", metavar="FILE", help="write the choice, for ml.load_choice(FILE).on(model)")


def run(args: argparse.Namespace) -> int:
    """Choose, print, write; returns 1 where the choice does not hold on what was held out."""
    import torch
    from tqdm import tqdm

    from multipole_lab.evaluation.layers.choosing import choose_layers
    from multipole_lab.evaluation.options import warn_of_leaves
    from multipole_lab.method_text import as_text, parse_method
    from multipole_lab.models.loading import load_model

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        methods = [parse_method(text) for text in args.method or METHODS]
        model, tokenizer = load_model(args.model, device=args.device, dtype=getattr(torch, args.dtype))
        warn_of_leaves([(as_text(method), method) for method in methods], model, args.max_tokens)
        windows = [
            _windows(tokenizer, name, args.windows, args.max_tokens) for name in (args.text, args.held_out)
        ]
        with tqdm(desc="layers", total=1, disable=None) as bar:

            def progress(done: int, total: int) -> None:
                bar.total, bar.n = total, done
                bar.refresh()

            limits = {"max_above": args.max_above, "max_kl": args.max_kl}
            found = choose_layers(model, *map(torch.tensor, windows), methods, **limits, progress=progress)
        print(f"{found}\n\nMeasured on {found.measured}")
        if args.json:
            print(f"\n{found.save(args.json)}\nwith ml.load_choice({args.json!r}).on(model): ...")
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"multipole-lab eval layers: {error}", file=sys.stderr)
        return 1
    return 0 if found.holds else 1


def _windows(tokenizer: object, name: str, windows: int, length: int) -> list[list[int]]:
    if windows < 1 or length < 2:
        raise ValueError(f"--windows is {windows}, --max-tokens {length}; at least 1 and 2 are needed")
    ids = token_ids(tokenizer, read_text(name), windows * length)
    if len(ids) < windows * length:
        raise ValueError(f"{name} has {len(ids):,} tokens; {windows} x {length} are needed")
    return [ids[w * length : (w + 1) * length] for w in range(windows)]
