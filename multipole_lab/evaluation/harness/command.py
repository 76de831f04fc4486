"""`multipole-lab eval lm-eval`: lm-eval's own command, which then knows the model ``multipole``.

lm-eval 0.4 looks for no plugins: its list of models is filled by imports, and this command is such an import.
"""

from __future__ import annotations

import argparse
import sys

from multipole_lab import extras

MISSING = (
    "multipole-lab eval lm-eval: lm-eval is not installed, nor needed by anything else here: "
    "pip install 'lm-eval>=0.4.9' 'accelerate>=1.0'"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything is lm-eval's."""
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER,
        help="as after lm_eval: run --model multipole --model_args pretrained=FOLDER 'method=MuSe(near=4)' --tasks ...",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Hand over to lm-eval."""
    if not extras.is_there("lm_eval"):
        print(MISSING, file=sys.stderr)
        return 1
    from unittest.mock import patch

    from lm_eval.__main__ import cli_evaluate

    from multipole_lab.evaluation.harness import model  # noqa: F401  enters the name

    with patch("sys.argv", ["lm-eval", *args.arguments]):
        cli_evaluate()
    return 0
