"""`multipole-lab sweep`: error and time over a grid of settings and lengths, the front, and what a call costs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from multipole_lab import files
from multipole_lab.search.tune_command import add_sample, bar, place

# Options that are arguments of a method: the grid.
GRID = {"clusters": int, "near": int, "order": str, "leaf": int, "partition": str, "iterations": int}
SHOWN = ["length", "method", "rse", "ms", "exact_ms", "speedup", "share", "source", "front"]


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``sweep`` to the command line."""
    parser = subparsers.add_parser(
        "sweep", help="error and time over a grid of settings and lengths", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add_sample(parser)
    add("--lengths", type=int, nargs="+", metavar="N", help="tokens, at most 131072; default: the sample's. Beyond "
        "them tokens are drawn again, and the rows say so")  # fmt: skip
    for name, kind in GRID.items():
        add(f"--{name}", type=kind, nargs="+", metavar=name[0].upper(), help=f"values of MuSe's {name}")
    add(
        "--method", action="append", metavar="METHOD", help="these methods instead of a grid; may be repeated"
    )
    add("--draws", type=int, metavar="M", help="random search: only M combinations of the grid")
    add(
        "--groups",
        type=int,
        metavar="G",
        help="only G key/value heads with their query heads: long lengths take long",
    )
    add("--repeats", type=int, default=3, help="turns that a time is the median of; default: 3")
    add(
        "--max-error",
        type=float,
        default=0.02,
        help="error under which clusters are recommended; default: 0.02",
    )
    add("--json", metavar="FILE", help="write rows, cost model and recommendation as JSON")
    add("--html", metavar="FILE", help="write the figure")
    add("--out", metavar="FILE", help="measurements as JSON lines, as they come; the same command continues there. "
        "Default: one in runs/ named after the settings")  # fmt: skip
    add("--fresh", action="store_true", help="measure again what an earlier run has measured")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, the cost model and the clusters to take."""
    from multipole_lab.environment import Measured
    from multipole_lab.method_text import parse_method
    from multipole_lab.models import load_sample
    from multipole_lab.search.cost_model import recommended
    from multipole_lab.search.grid_sweep import sweep

    try:
        sample = load_sample(args.sample)
        grid = {name: getattr(args, name) for name in GRID if getattr(args, name)} or None
        if args.method and grid:
            raise ValueError(f"--method and --{next(iter(grid))}: give methods or a grid, not both")
        with bar("sweep") as progress:
            table = sweep(
                sample, [parse_method(text) for text in args.method] if args.method else grid, lengths=args.lengths,
                causal=args.causal, layers=args.layers, groups=args.groups, draws=args.draws, device=args.device,
                repeats=args.repeats, seed=args.seed, out=place(args, "sweep", ("groups", "repeats")),
                progress=progress,
            )  # fmt: skip
        best = recommended(table, args.max_error)
    except (ValueError, TypeError, OSError) as error:
        print(f"multipole-lab sweep: {error}", file=sys.stderr)
        return 1
    model, words = _model(table)
    print(table[SHOWN])
    measured = Measured(**table.attrs["measured"])
    print(
        f"\nMeasured on {measured}\n\n{words}\n\nThe fastest MuSe with an error of at most {args.max_error:g}:"
    )
    print(best.reset_index(drop=True))
    for path in _written(args, table, model, best, measured):
        print(path)
    return 0


def _model(table) -> tuple[object, str]:
    """The cost model, and what it says in words; None where there is too little to fit one to."""
    from multipole_lab.search.cost_model import fit_cost_model

    try:
        model = fit_cost_model(table)
    except ValueError as error:
        return None, f"No cost model: {error}"
    return model, f"Cost model:\n{model}"


def _written(args, table, model, best, measured) -> list[Path]:
    """The files that were asked for."""
    written = []
    if args.json:
        written.append(Path(args.json))
        record = {
            "format": "multipole_lab sweep 1",
            "measured": measured.facts(),
            "rows": json.loads(table.to_json(orient="records")),
            "cost_model": model and {
                "prices_ms": model.prices, "residuals": json.loads(model.table.to_json(orient="records")),
            },
            "max_error": args.max_error,
            "recommended": json.loads(best.to_json(orient="records")),
        }  # fmt: skip
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        files.write(written[-1], json.dumps(record, indent=1) + "\n")
    if args.html:
        from multipole_lab.figures import sweep as draw

        written.append(Path(args.html))
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        figure = draw(
            table["ms"].to_numpy(), table["rse"].to_numpy(), table["length"].to_numpy(), list(table["method"]),
            args.max_error, measured.words, predicted_ms=predictions(model, table),
        )  # fmt: skip
        files.write(written[-1], figure.to_html(include_plotlyjs=True))
    return written


def predictions(model, table):
    """What the cost model says of every row, NaN for those that are no MuSe; None without a model."""
    if model is None:
        return None
    from multipole_lab.attention import MuSe
    from multipole_lab.method_text import parse_method

    methods = [parse_method(text) for text in table["method"]]
    return [
        model.predict(method, length, causal) if isinstance(method, MuSe) else float("nan")
        for method, length, causal in zip(methods, table["length"], table["causal"], strict=True)
    ]
