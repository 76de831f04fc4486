"""`multipole-lab capture`: let a model read a text file and keep its queries, keys and values."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from pathlib import Path

from multipole_lab.models.samples.sample import LayerSample, Sample

STEP = 2.0**-10  # the spacing of fp16 numbers, relative to their size


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``capture`` to the command line."""
    parser = subparsers.add_parser(
        "capture",
        help="keep the queries, keys and values of a model that reads a text",
        description="Let a model read a text file once; write q, k and v (after RoPE) of some layers as fp16 "
        "safetensors, with a JSON record of where they come from beside it.",
        epilog="The lab's own sample was made by: multipole-lab capture smollm2 data/reading.txt "
        "--layers 3 15 28 --max-tokens 4096 --source wheel --out data/smollm2.safetensors",
    )
    add = parser.add_argument
    add("model", help="smollm2, minilm, a Hugging Face hub id, or a folder")
    add("text", type=Path, help="a text file in UTF-8")
    add("--layers", type=int, nargs="+", default=[3, 15, 28], metavar="N", help="from 0; default: 3 15 28")
    add("--max-tokens", type=int, default=8192, metavar="N", help="read at most N tokens; default: 8192")
    add("--source", choices=["auto", "hub", "wheel"], default="auto", help="where smollm2 or minilm is from")
    add("--positions", type=int, metavar="N", help="extend RoPE by YaRN to N positions, for longer texts")
    add("--device", default="cpu", help="where the model runs; default: cpu")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the model; long texts on a "
        "GPU need half precision, where exact attention has no matrix; default: float32")  # fmt: skip
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--out", type=Path, metavar="FILE", help="write FILE.safetensors and FILE.json")
    goal.add_argument(
        "--verify",
        type=Path,
        metavar="FILE",
        help="capture what FILE holds once more, from FILE's own source unless --source says otherwise, "
        "and print the largest differences; exit status 1 when they exceed fp16 rounding",
    )


def run(args: argparse.Namespace) -> int:
    """Capture, or capture again and compare; returns the exit status."""
    try:
        return _verify(args) if args.verify else _capture(args)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"multipole-lab capture: {error}", file=sys.stderr)
        return 1


def _capture(args: argparse.Namespace) -> int:
    text = _read_text(args.text)
    sample = _fresh(args, text, args.layers, args.max_tokens, args.source, to=args.out)
    size = sample.path.stat().st_size + sample.path.with_suffix(".json").stat().st_size
    print(f"{sample.path}: {len(sample)} tokens, layers {sample.layers}, {size / 1e6:.1f} MB with its record")
    return 0


def _verify(args: argparse.Namespace) -> int:
    old = Sample.load(args.verify)
    text = _read_text(args.text)
    recorded = old.provenance.get("text_sha256")
    if hashlib.sha256(text.encode()).hexdigest() != recorded:
        raise ValueError(f"{args.text} is not the text that {args.verify} was made from (SHA-256 {recorded})")
    source = args.source
    if source == "auto":
        source = old.provenance["model"].get("source", "auto")
    new = _fresh(args, text, old.layers, len(old), source, to=None)
    if not new.token_ids.equal(old.token_ids):
        print(f"the token ids differ: {len(new)} tokens against {len(old)}")
        return 1
    worst = 0.0
    for layer in old.layers:
        largest, steps = _differences(new[layer], old[layer])
        worst = max(worst, *steps.values())
        shown = ", ".join(f"{part} {largest[part]:.2e} ({steps[part]:.2f} steps)" for part in "qkv")
        print(f"layer {layer}: largest differences {shown}")
    verdict = "the same" if worst <= 1 else "NOT the same"
    print(f"{verdict} to fp16 rounding (largest difference: {worst:.2f} steps of 2^-10)")
    return int(worst > 1)


def _fresh(
    args: argparse.Namespace, text: str, layers: list[int], max_tokens: int, source: str, to: Path | None
) -> Sample:
    import torch

    from multipole_lab.models.loading import load_model
    from multipole_lab.models.samples.capturing import capture

    model, tokenizer = load_model(
        args.model,
        device=args.device,
        dtype=getattr(torch, args.dtype),
        source=source,
        positions=args.positions,
    )
    note = {"text_file": args.text.name, "command": _command(args)}
    return capture(model, tokenizer, text, layers, max_tokens, to=to, note=note)


def _command(args: argparse.Namespace) -> str:
    """The command in full, however it was abbreviated when typed."""
    words = ["multipole-lab", "capture", args.model, args.text, "--layers", *args.layers]
    words += ["--max-tokens", args.max_tokens]
    words += [] if args.source == "auto" else ["--source", args.source]
    words += [] if args.positions is None else ["--positions", args.positions]
    words += [] if args.device == "cpu" else ["--device", args.device]
    words += [] if args.dtype == "float32" else ["--dtype", args.dtype]
    words += ["--out", args.out] if args.out else ["--verify", args.verify]
    return shlex.join(str(word) for word in words)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def _differences(new: LayerSample, old: LayerSample) -> tuple[dict[str, float], dict[str, float]]:
    """The largest absolute difference of q, k and v, and the largest in steps of fp16.

    A step is 2^-10 of the number itself, or of the tensor's root mean square where the number is smaller: a
    value near zero is a difference of larger ones and carries their rounding.
    """
    largest, steps = {}, {}
    for part in "qkv":
        a, b = getattr(new, part), getattr(old, part)
        difference = (a - b).abs()
        step = STEP * b.abs().clamp_min(b.square().mean().sqrt().item())
        largest[part] = difference.max().item()
        steps[part] = (difference / step).max().item()
    return largest, steps
