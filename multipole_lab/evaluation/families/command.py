"""`multipole-lab models check`: which of transformers' model families work with a drop-in, a capture and the cache."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multipole_lab.evaluation.families.checks import Answer

# The families that the table is about; --all asks every one that transformers lists.
FAMILIES = (
    "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gemma3", "phi3", "smollm3", "gpt_oss",
    "deepseek_v3", "deepseek_v32", "bert", "modernbert", "t5", "vit", "whisper",
)  # fmt: skip
HEADINGS = ("drop-in", "capture", "cache")
_HEAD = """# Models

Which of transformers' model families work with the lab, found out by

```console
{command}
```

with transformers {version}, on a tiny random model of each family. What is right is the model's own attention, in
outputs and logits: a drop-in (`method.on(model)`) with every key exact (`ml.Exact()`, and `ml.MuSe` with all clusters
near) must not change them, and `ml.MultipoleCache` with a budget for every key must not either; attention over a
capture (`ml.capture`) must be what the layer computed.

- **works**: right, and an approximation reaches the output.
- **exact**: right, by the model's own attention: it wants what no approximation honours, for the reason given.
- **refused**: an error with these words.
- **wrong**: neither right nor refused. There must be none.
- **untested**: the small sizes known here make no model of the family, which says nothing about the family.

The cache is **exact** where a model has in its softmax what a step over clusters does not know, learned sinks
(gpt_oss) for one: each step then sums every key by the model's own attention, right and no faster. The cell counts
those steps.

**Yours is untested, or not here?** `multipole-lab models check NAME`, with transformers' `model_type` as NAME, tries it
with your transformers and says why it could make no tiny model. Your own model answers better:
`with ml.Exact().on(model, strict=True):` must give the logits that it gives without, and `print` of what
`ml.MuSe().on(model)` gives counts calls that were approximated and calls left exact.
"""


@dataclass(frozen=True)
class Row:
    """A family, or one side of it, and the answers to the three questions; none where it is untested."""

    label: str
    answers: tuple[Answer, ...] = ()
    untested: str = ""

    @property
    def wrong(self) -> bool:
        """Whether something is neither right nor refused."""
        return any(answer.kind == "wrong" for answer in self.answers)

    def __str__(self) -> str:
        """A line of the table."""
        cells = [str(answer).replace("|", "\\|") for answer in self.answers] or [
            "untested",
            self.untested,
            "",
        ]
        return f"| {' | '.join([self.label, *cells])} |"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``models`` to the command line."""
    parser = subparsers.add_parser("models", help="model families", description=__doc__.split("\n")[0])
    names = parser.add_subparsers(dest="action", metavar="NAME", required=True, title="what to do")
    check = names.add_parser(
        "check", help="try families, on tiny random models", description=__doc__.split("\n")[0]
    )
    check.add_argument(
        "family",
        nargs="*",
        help="names as in transformers' list of model types; default: " + ", ".join(FAMILIES),
    )
    check.add_argument("--all", action="store_true", help="every family that transformers lists; minutes")
    check.add_argument("--out", type=Path, metavar="FILE", help="write the page, as docs/models.md is")


def run(args: argparse.Namespace) -> int:
    """Ask; print a line for each; returns 1 where something is wrong."""
    from transformers import __version__ as version, logging
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    from multipole_lab import files
    from multipole_lab.suggesting import question

    for family in args.family:
        if family not in CONFIG_MAPPING_NAMES:
            hint = question(family, CONFIG_MAPPING_NAMES)
            print(f"multipole-lab models check: transformers has no family {family!r}{hint}", file=sys.stderr)
            return 1
    logging.set_verbosity_error()
    chosen = tuple(args.family) or FAMILIES
    others = [family for family in CONFIG_MAPPING_NAMES if args.all and family not in chosen]
    rows = []
    for family in (*chosen, *others):
        for row in ask(family):
            print(row, flush=True)
            rows.append(row)
    if args.out:
        command = " ".join(
            ["multipole-lab models check", *args.family, *["--all"] * args.all, f"--out {args.out}"]
        )
        untested = 0 if args.all else len(CONFIG_MAPPING_NAMES) - len(chosen)
        first = [row for row in rows if row.label.split()[0] in chosen]
        page = [_HEAD.format(command=command, version=version), table(first)]
        page += summary(row for row in rows if row not in first)
        page += [f"{untested} other families of transformers' list are untested here."] if untested else []
        files.write(args.out, "\n".join(page) + "\n")
    wrong = sum(row.wrong for row in rows)
    print(f"{wrong} wrong")
    return int(wrong > 0)


def ask(family: str) -> list[Row]:
    """The rows of one family."""
    from multipole_lab.evaluation.families.checks import asked, cached, captured, drop_in
    from multipole_lab.evaluation.families.tiny import tiny_parts

    try:
        parts = tiny_parts(family)
    except ValueError as error:
        return [Row(family, untested=" ".join(str(error).split()))]
    return [Row(part.label, tuple(asked(one, part) for one in (drop_in, captured, cached))) for part in parts]


def table(rows: Iterable[Row]) -> str:
    """The rows as a table of a page."""
    return "\n".join([f"| family | {' | '.join(HEADINGS)} |", "|---" * 4 + "|", *map(str, rows)]) + "\n"


def summary(rows: Iterable[Row]) -> list[str]:
    """The other families by what came out, each kind a paragraph."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        said = ", ".join(
            f"{what} {a.kind}" for what, a in zip(HEADINGS, row.answers, strict=False) if a.kind != "none"
        )
        kinds.setdefault(said or "untested", []).append(row.label)
    ordered = sorted(kinds.items(), key=lambda kind: (kind[0] == "untested", -len(kind[1])))
    head = ["## All others that transformers lists\n"] if kinds else []
    return [*head, *(f"**{said}** ({len(labels)}): {', '.join(labels)}.\n" for said, labels in ordered)]
