"""The command `multipole-lab`: a small registry of subcommands, each in its own module.

A subcommand's module offers two functions and imports heavy packages (torch, transformers) inside the second:

- ``add_parser(subparsers)`` adds its argparse parser, by the name under which it stands in `COMMANDS`;
- ``run(args)`` does the work and returns the exit status (``None`` means 0).

Only the module of the command that was typed is imported, so ``multipole-lab --help`` answers at once.
"""

import argparse
import importlib
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import NoReturn

from multipole_lab import __version__, extras
from multipole_lab.suggesting import nearest

COMMANDS = {  # name: (module, what --help says of it)
    "lab": ("multipole_lab.jupyter.lab_command", "copy the notebooks to a folder and open JupyterLab there"),
    "doctor": ("multipole_lab.doctor", "check this machine, and print the command that fixes each problem"),
    "capture": (
        "multipole_lab.models.samples.capture_command",
        "record queries, keys and values of a model reading a text",
    ),
    "bench": ("multipole_lab.bench.command", "time methods on this machine, with the error beside"),
    "sweep": (
        "multipole_lab.search.sweep_command",
        "error and time over a grid of settings and lengths; what a call costs",
    ),
    "tune": ("multipole_lab.search.tune_command", "the fastest method under an error, as a line to paste"),
    "eval": (
        "multipole_lab.evaluation.eval_command",
        "evaluate a whole model: perplexity, needles, reasoning, LongBench v2, RULER, lm-eval, decoding",
    ),
    "models": (
        "multipole_lab.evaluation.families.command",
        "try transformers' model families: drop-in, capture, cache",
    ),
    "train": (
        "multipole_lab.training.train_command",
        "pretrain a small GPT with exact attention and with MuSe, side by side",
    ),
    "kernels": (
        "multipole_lab.kernels.report.command",
        "compile every Triton kernel and report what it needs",
    ),
    "course": (
        "multipole_lab.course.grading.command",
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
    parser = Parser(
        prog="multipole-lab",
        description="Multipole attention: see it, measure it on your own model, take it away.",
        epilog="'multipole-lab COMMAND --help' explains one command.",
    )
    parser.add_argument("--version", action="version", version=f"multipole-lab {__version__}")
    if typed is not None and typed not in COMMANDS:
        parser.error(f"unknown command {typed!r}. {_suggestion(typed, COMMANDS)}")

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


class Parser(argparse.ArgumentParser):
    """A parser that answers a misspelt option or choice with the nearest one; so do those of its subcommands."""

    def parse_known_args(self, args=None, namespace=None):
        namespace, unknown = super().parse_known_args(args, namespace)
        if (
            unknown
        ):  # the parser of a subcommand knows its options; the one above, which would be asked, does not
            typed = next((one for one in unknown if one.startswith("-")), unknown[0]).partition("=")[0]
            self.error(f"unknown argument {typed!r}. {_suggestion(typed, self._option_string_actions, '')}")
        return namespace, unknown

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            hint = _suggestion(str(value), list(map(str, action.choices)), "There are")
            raise argparse.ArgumentError(action, f"{value!r} is not known. {hint}")

    def error(self, message: str) -> NoReturn:
        before = " " * len(f"{self.prog}: error: ")  # what argparse writes there
        super().error(textwrap.fill(message, 80, initial_indent=before, break_on_hyphens=False).lstrip())


def _suggestion(typed: str, known: Iterable[str], otherwise: str = "Commands:") -> str:
    """The closest name as a question; or all of them, after the words ``otherwise`` if there are any."""
    close = nearest(typed, known)
    if close:
        return f"Did you mean {close!r}?"
    return f"{otherwise} {', '.join(known)}." if otherwise else "--help lists what there is."


if __name__ == "__main__":
    sys.exit(main())
