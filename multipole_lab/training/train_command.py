"""`multipole-lab train`: pretrain a small GPT with exact attention or MuSe; `train compare`: both, side by side."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from multipole_lab import extras
from multipole_lab.training.train_arguments import add_parser as add_parser


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit status."""
    from torch import OutOfMemoryError

    from multipole_lab.training.processes import world_size

    if args.device == "cpu" and world_size() > 1:
        # Where there are GPUs, accelerate's barrier names one for every process, also for those that use none.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        return _run(args)
    except OutOfMemoryError as error:
        print(
            f"multipole-lab train: {error}\nTake a smaller --batch, with --accumulate to match",
            file=sys.stderr,
        )
        return 2
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        print(f"multipole-lab train: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    from multipole_lab.method_text import check_method
    from multipole_lab.training.comparison import forget
    from multipole_lab.training.comparison_result import SIDES
    from multipole_lab.training.limits import check_share
    from multipole_lab.training.presets import PRESETS, dry
    from multipole_lab.training.processes import check_parts, end_group, is_first, world_size

    preset = PRESETS[args.preset]
    layers = args.layers_muse
    if args.layers is not None and layers is None:
        layers = [args.layers // 2]
    preset = preset.replace(
        context=args.context, batch=args.batch, accumulate=args.accumulate, steps=args.steps, warmup=args.warmup,
        rate=args.rate, every=args.every, heldout_blocks=args.heldout_blocks, layers=args.layers, width=args.width,
        heads=args.heads, mlp=args.mlp, vocab=args.vocab, megabytes=args.megabytes, precision=args.precision,
        method=None if args.method is None else check_method(args.method),
        muse_layers=None if layers is None else tuple(sorted(set(layers))),
    )  # fmt: skip
    device = "cpu" if args.dry_run else _device(args.device)
    if device == "cpu" and args.precision is None:
        preset = preset.replace(precision="no")
    if args.dry_run:
        preset = dry(preset)
        if args.out is None:
            args.out = Path("runs") / f"{args.preset}-dry"
    if args.fsdp and (world_size() == 1 or args.mode != "run"):
        raise ValueError(
            "--fsdp shards a model over processes; start them with: torchrun --standalone --nproc-per-node 8 "
            "-m multipole_lab.cli train --fsdp ..."
        )
    if args.context_parallel != 1:
        check_parts(args.context_parallel, world_size())
        if args.compile or args.mode != "run":
            raise ValueError("--context-parallel is for 'train' alone, without --compile")
    for name in ("max_seconds", "limit"):
        seconds = getattr(args, name)
        if seconds is not None and not seconds > 0:
            raise ValueError(f"--{name.replace('_', '-')} is {seconds}; a positive number is needed")
    check_share("--exact-last", args.exact_last)
    if args.exact_last and (args.attention != "muse" or args.mode != "run" or args.context_parallel > 1):
        raise ValueError("--exact-last is for 'train --attention muse' alone, without --context-parallel")
    if args.profile is not None and (args.profile < 1 or args.mode != "run"):
        raise ValueError("--profile is for 'train' alone, with a positive number of steps")
    from multipole_lab.training.profiles.lanes import WARM

    if args.profile is not None and args.profile + WARM > preset.steps:
        raise ValueError(
            f"--profile is {args.profile}, with {preset.steps} steps in all; the first {WARM} warm up, and those of "
            "the profile must follow them"
        )
    log_every = args.log_every or (10 if device == "cuda" else 1)
    if log_every < 1:
        raise ValueError(f"--log-every is {log_every}; at least 1 is needed")
    _check_packages()
    say = print if is_first() else lambda *words: None
    out = args.out or Path("runs") / args.preset
    seeds = args.seeds or ([0, 1, 2] if args.mode == "compare" and not args.dry_run else [0])
    if args.restart and is_first():  # before the corpus, where the other processes wait for the first
        forget(out, seeds, SIDES if args.mode == "compare" else (args.attention,))
    corpus = _corpus(args, preset, say)
    _describe(preset, corpus, device, say, world_size() // args.context_parallel)
    if args.mode == "prepare":
        return 0
    if args.mode == "compare":
        return _compare(args, preset, corpus, device, out, seeds, log_every)
    status = _train(args, preset, corpus, device, out, seeds, log_every, say)
    end_group(status)
    return status


def _device(name: str) -> str:
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device is {name!r}; allowed are 'auto', 'cpu' and 'cuda' (choose one GPU of several with "
                         "CUDA_VISIBLE_DEVICES)")  # fmt: skip
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is 'cuda', but torch finds no GPU here; 'multipole-lab doctor' says why")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _check_packages() -> None:
    extras.require("training", "models", "accelerate")


def _corpus(args, preset, say):
    """The first process prepares it, the others open what it made."""
    from multipole_lab.training.processes import world_size
    from multipole_lab.training.texts.preparation import prepare_corpus

    settings = {"source": args.data, "vocab": preset.vocab, "megabytes": preset.megabytes, "say": say}
    if world_size() == 1:
        return prepare_corpus(**settings)
    from accelerate import PartialState

    with PartialState(cpu=_device(args.device) == "cpu" or args.dry_run).main_process_first():
        return prepare_corpus(**settings)


def _describe(preset, corpus, device, say, groups: int) -> None:
    from multipole_lab.environment import Measured
    from multipole_lab.training.gpt import build_model, describe
    from multipole_lab.training.presets import PRECISIONS
    from multipole_lab.training.processes import world_size

    splits = corpus.record["splits"]
    say(describe(build_model(preset, corpus.tokenizer)))
    say(
        f"{splits['train']['tokens'] / 1e6:.1f}M tokens to learn from, "
        f"{splits['heldout']['tokens'] / 1e6:.2f}M held out; {preset.steps:,} steps of "
        f"{preset.tokens_per_step(groups):,} tokens in {world_size()} process{'es' * (world_size() > 1)}"
    )
    say(str(Measured.here(device, PRECISIONS[preset.precision], "multipole-lab train")))


def _train(args, preset, corpus, device, out, seeds, log_every, say) -> int:
    import time

    from multipole_lab.training.run import Run, train_run

    ends = None if args.max_seconds is None else time.monotonic() + args.max_seconds
    for seed in seeds:
        method = None if args.attention == "exact" else preset.method
        run = Run(preset, corpus, method, seed, device, out / f"seed-{seed}" / args.attention, log_every,
                  args.compile, args.context_parallel, args.limit, args.exact_last)  # fmt: skip
        with _bar(f"{args.attention}, seed {seed}", preset.steps) as bar:
            rows = train_run(
                run,
                callbacks=_profile(args.profile, run.folder),
                stop=lambda step: ends is not None and time.monotonic() > ends,
                show=lambda row, bar=bar: _show(bar, "", row),
                fsdp={"version": 2} if args.fsdp else None,
            )
        looks = [row for row in rows if "heldout_loss" in row]
        if looks:
            say(
                f"seed {seed}: held-out loss {looks[-1]['heldout_loss']:.4f} after {looks[-1]['step']:,} steps; "
                f"{run.folder}"
            )
    return 0


def _compare(args, preset, corpus, device, out, seeds, log_every) -> int:
    from multipole_lab.training.comparison import compare_training
    from multipole_lab.training.comparison_result import table

    with _bar("exact and MuSe", preset.steps * len(seeds)) as bar:
        result = compare_training(
            preset, corpus, out, seeds, device, log_every, args.max_seconds,
            show=lambda side, seed, row: _show(bar, side, row, seeds.index(seed) * preset.steps),
            compiled=args.compile,
        )  # fmt: skip
    print(table(result))
    print(f"written to {out / 'compare.json'} and {out / 'compare.html'}")
    return 0


def _profile(steps: int | None, folder: Path) -> list:
    if steps is None:
        return []
    from multipole_lab.training.profiles.profiling import Profile

    return [Profile(folder, steps)]


def _bar(words: str, total: int):
    from tqdm import tqdm

    from multipole_lab.training.processes import is_first

    return tqdm(total=total, desc=words, unit="step", disable=not is_first(), dynamic_ncols=True)


def _show(bar, side: str, row: dict, before: int = 0) -> None:
    """Move the bar; a look at the held-out text is worth a line of its own."""
    if "heldout_loss" in row:
        bar.write(f"step {row['step']:>6,} {side:>6} held-out loss {row['heldout_loss'] or float('nan'):.4f}")
        return
    if side != "muse":
        bar.n = before + row["step"]
    bar.set_postfix_str(
        f"{side} loss {row['loss'] or float('nan'):.3f}, {row['tokens_per_second']:,.0f} tokens/s, "
        f"attention {100 * row['attention_seconds'] / max(row['seconds'], 1e-9):.0f}%".strip()
    )
