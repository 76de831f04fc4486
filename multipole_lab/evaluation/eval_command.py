"""`multipole-lab eval NAME`: a registry of evaluations, each in its own module.

An evaluation's module offers ``add_arguments(parser)`` and ``run(args)``, which returns the exit status.
"""

from __future__ import annotations

import argparse
import importlib

EVALUATIONS = {  # name: (module, what --help says of it)
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
        importlib.import_module(module).add_arguments(one)


def run(args: argparse.Namespace) -> int:
    """Run one evaluation; returns the exit status."""
    return importlib.import_module(EVALUATIONS[args.evaluation][0]).run(args) or 0
