"""`multipole-lab eval NAME`: a registry of evaluations, each in its own module.

An evaluation's module offers ``add_arguments(parser)`` and either ``prepare(args, model, tokenizer)``, which returns
an ``engine.Evaluation`` that ``run.run`` works through, or its own ``run(args)``, which returns the exit status.
"""

from __future__ import annotations

import argparse
import importlib
import sys

EVALUATIONS = {  # name: (module, what --help says of it)
    "perplexity": (
        "multipole_lab.evaluation.perplexity",
        "the loss of the next token by its position in the context, on any text",
    ),
    "needle": (
        "multipole_lab.evaluation.needle",
        "find one sentence in a long text, over its depth and the length of the text",
    ),
    "symbolic": (
        "multipole_lab.evaluation.symbolic",
        "arithmetic over quantities that depend on each other, among distracting ones",
    ),
    "longbench": (
        "multipole_lab.evaluation.longbench",
        "LongBench v2: multiple-choice questions on long documents",
    ),
    "ruler": (
        "multipole_lab.evaluation.ruler.command",
        "RULER's thirteen tasks: needles of several keys, variables, common words, documents",
    ),
    "layers": (
        "multipole_lab.evaluation.layers.command",
        "which layers to replace, and by what, to stay under a loss or a divergence",
    ),
    "lm-eval": (
        "multipole_lab.evaluation.harness.command",
        "the tasks of lm-eval, whose command this is, with the model 'multipole'",
    ),
    "generate": (
        "multipole_lab.evaluation.generate",
        "decoding through MultipoleCache against dense decoding: agreement, divergence, loss",
    ),
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``eval`` and its evaluations to the command line."""
    parser = subparsers.add_parser("eval", help="evaluate a whole model", description=__doc__.split("\n")[0])
    names = parser.add_subparsers(dest="evaluation", metavar="NAME", required=True, title="evaluations")
    for name, (module, summary) in EVALUATIONS.items():
        one = names.add_parser(name, help=summary, description=summary)
        evaluation = importlib.import_module(module)
        if hasattr(evaluation, "prepare"):
            _add_common(one)
        evaluation.add_arguments(one)


def _add_common(parser: argparse.ArgumentParser) -> None:
    """The options of every evaluation with items."""
    add = parser.add_argument
    add("--model", default="smollm2", help="smollm2, a hub id or a folder; default: smollm2")
    add("--method", action="append", default=[], metavar="METHOD", help="besides dense attention: 'MuSe(clusters=64, "
        "near=4)', 'Window(size=512)', 'MultipoleCache(budget=128)' ...; may be repeated")  # fmt: skip
    add(
        "--max-tokens",
        type=int,
        default=2048,
        metavar="N",
        help="tokens of the longest context; default: 2048",
    )
    add("--positions", type=int, metavar="N", help="extend RoPE by YaRN to N positions, for longer contexts")
    add("--limit", type=int, metavar="N", help="only the first N items")
    add("--seed", type=int, default=0, help="default: 0")
    add("--out", metavar="DIR", help="folder of results and report; a run that finds results there continues; "
        "default: one in runs/ that the same settings find again")  # fmt: skip
    add("--device", default="cpu", help="where the model runs; default: cpu")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="default: float32")
    add("--threads", type=int, metavar="N", help="threads of torch; default: its own choice")


def run(args: argparse.Namespace) -> int:
    """Run one evaluation; returns the exit status."""
    evaluation = importlib.import_module(EVALUATIONS[args.evaluation][0])
    if not hasattr(evaluation, "prepare"):
        return evaluation.run(args) or 0
    from multipole_lab.evaluation.run import run as run_all

    try:
        run_all(args, evaluation.prepare)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"multipole-lab eval {args.evaluation}: {error}", file=sys.stderr)
        return 1
    return 0
