"""The arguments of `multipole-lab train`."""

from __future__ import annotations

import argparse
from pathlib import Path

MODES = ("run", "compare", "prepare")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``train`` to the command line."""
    from multipole_lab.training.presets import MODES as ALLOWED, PRESETS

    parser = subparsers.add_parser(
        "train",
        help="pretrain a small GPT with exact attention and with MuSe",
        description="Pretrain a small GPT. 'train' alone trains one side; 'train compare' trains exact attention "
        "and the method from the same weights on the same text, in turns step by step, and reports loss and time; "
        "'train prepare' only makes tokenizer and tokens. The same command again goes on where it was stopped.",
    )
    add = parser.add_argument
    add("mode", nargs="?", choices=MODES, default="run", help="default: run")
    add(
        "--preset",
        choices=tuple(PRESETS),
        default="tiny",
        help="tiny: a laptop; paper: MuSe's model; default: tiny",
    )
    add("--attention", choices=("exact", "muse"), default="exact", help="of 'train' alone; default: exact")
    add("--method", help='what takes the place of exact attention, as "MuSe(clusters=64, leaf=512)"')
    add(
        "--layers-muse", type=int, nargs="+", metavar="LAYER", help="the layers it does so in, counted from 0"
    )
    add("--exact-last", type=float, default=0.0, metavar="SHARE",
        help="of 'train --attention muse': the share of the steps, the last ones, by exact attention")  # fmt: skip
    add("--seed", "--seeds", dest="seeds", type=int, nargs="+", default=None, metavar="SEED",
        help="weights and order of the text; default: 0, for compare 0 1 2")  # fmt: skip
    add("--device", default="auto", help="cpu, cuda or auto; default: auto")
    add("--out", type=Path, default=None, help="folder for logs and checkpoints; default: runs/PRESET")
    add(
        "--data",
        default="python",
        help="'python' (your Python's own source and help), 'pg19', or a folder of text",
    )
    add("--restart", action="store_true", help="forget what is in the folder and start again")
    add(
        "--dry-run",
        action="store_true",
        help="two steps on the CPU at reduced width: does it all fit together?",
    )
    add("--max-seconds", type=float, help="stop after that long; both sides of a comparison do as many steps")
    add("--log-every", type=int, help="steps between two rows of the log; default: 1, on a GPU 10")
    for name, kind, words in (
        ("context", int, "tokens in a sequence"),
        ("batch", int, "sequences in a forward pass"),
        ("accumulate", int, "forward passes in a step"),
        ("steps", int, "steps of the optimizer"),
        ("warmup", int, "of them, with a rising learning rate"),
        ("rate", float, "peak learning rate"),
        ("every", int, "steps between two checkpoints and looks at held-out text"),
        ("heldout-blocks", int, "held-out sequences looked at"),
        ("layers", int, "layers of the model"),
        ("width", int, "of the model"),
        ("heads", int, "attention heads"),
        ("mlp", int, "width of the MLP"),
        ("vocab", int, "tokens of the tokenizer"),
        ("megabytes", float, "text at most"),
    ):
        add(f"--{name}", type=kind, help=f"{words}; the preset's by default")
    add(
        "--precision",
        choices=ALLOWED,
        help="autocast: no, bf16 or fp16; the preset's by default, on a CPU no",
    )
    add("--compile", action="store_true", help="compile what lies around attention, of both sides alike")
    add(
        "--profile",
        type=int,
        metavar="STEPS",
        help="of 'train' alone: write where the time of that many steps goes, to profile.json, each "
        "process to one of its own",
    )
    add("--fsdp", action="store_true", help="shard the model over the processes of torchrun (FSDP)")
    add(
        "--context-parallel",
        type=int,
        default=1,
        metavar="P",
        help="share every sequence among P processes of torchrun, each with a part of it; default: 1",
    )
    add(
        "--limit",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="of several processes: after that long without a sign of one, all end; default: 600",
    )
