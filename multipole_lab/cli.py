"""The command `multipole-lab`: a small registry of subcommands, each in its own module.

A subcommand's module offers two functions and imports heavy packages (torch, transformers) inside the second:

- ``add_parser(subparsers)`` adds its argparse parser, by the name under which it stands in `COMMANDS`;
- ``run(args)`` does the work and returns the exit status (``None`` means 0).

Only the module of the command that was typed is imported, so ``multipole-lab --help`` answers at once.
"""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence

from multipole_lab import __version__, extras

COMMANDS = {  # name: (module, what --help says of it)
    "doctor": ("multipole_lab.doctor", "check this machine, and print the command that mends each problem"),
    "capture": (
        "multipole_lab.models.capture_command",
        "record queries, keys and values of a model reading a text",
    ),
    "bench": ("multipole_lab.analysis.bench_command", "time methods on this machine, with the error beside"),
    "sweep": (
        "multipole_lab.analysis.sweep_command",
        "error and time over a grid of settings and lengths; what a call costs",
    ),
    "tune": ("multipole_lab.analysis.tune_command", "the fastest method under an error, as a line to paste"),
    "eval": (
        "multipole_lab.evaluation.eval_command",
        "evaluate a whole model: perplexity, needles, reasoning, LongBench v2, decoding",
    ),
    "train": (
        "multipole_lab.training.train_command",
        "pretrain a small GPT with exact attention and with MuSe, side by side",
    ),
    "kernels": (
        "multipole_lab.kernels.report_command",
        "compile every Triton kernel and report what it needs",
    ),
    "course": (
        "multipole_lab.course.command",
        "assignments: release them, grade submissions safely, write reports",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of this process by default.

    Returns
    -------
    int
        The exit status: 0 when all went well, 1 without a package that the subcommand needs, 130 after Ctrl-C,
        otherwise what the subcommand says.

    Raises
    ------
    SystemExit
        From argparse: with 0 after ``--help`` or ``--version``, with 2 after a wrong argument.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    typed = argv[0] if argv and not argv[0].startswith("-") else None
    parser = argparse.ArgumentParser(
        prog="multipole-lab",
        description="Multipole attention: see it, measure it on your own model, take it away.",
        epilog="'multipole-lab COMMAND --help' explains one command.",
    )
    parser.add_argument("--version", action="version", version=f"multipole-lab {__version__}")
    if typed is not None and typed not in COMMANDS:
        parser.error(f"unknown command {typed!r}. {_suggestion(typed)}")

    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (module, summary) in COMMANDS.items():
        if name == typed:
            importlib.import_module(module).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)

    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    try:
        return importlib.import_module(COMMANDS[args.command][0]).run(args) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"multipole-lab {args.command}: {extras.explain(error)}", file=sys.stderr)
        return 1


def _suggestion(typed: str) -> str:
    """Return the closest command as a question, or all of them."""
    close = difflib.get_close_matches(typed.lower(), COMMANDS, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Commands: {', '.join(COMMANDS)}."


if __name__ == "__main__":
    sys.exit(main())
