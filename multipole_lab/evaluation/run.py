"""One evaluation from the command line: the model, the methods, the journal, the table, the report."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas
import torch

import multipole_lab
from multipole_lab.environment import Measured
from multipole_lab.evaluation import DENSE, report
from multipole_lab.evaluation.engine import Evaluation, results_path, run_items
from multipole_lab.evaluation.options import check_positions, warn_of_leaves
from multipole_lab.evaluation.reader import Reader, weights_digest
from multipole_lab.journal import Journal, settings_hash
from multipole_lab.method_text import check_method
from multipole_lab.models.loading import load_model
from multipole_lab.models.samples.provenance import describe_model

REPORT, TABLE = "report.html", "table.csv"


def run(args: argparse.Namespace, prepare: Callable[..., Evaluation]) -> pandas.DataFrame:
    """Evaluate, print the table, write ``table.csv`` and ``report.html`` beside the results; returns the table.

    Raises
    ------
    ValueError, OSError, RuntimeError, ImportError : with what was wrong in words; results so far are kept.
    """
    methods = list(
        dict.fromkeys(check_method(text) for text in args.method)
    )  # before the model, which takes long
    _check(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    model, tokenizer = load_model(
        args.model, device=args.device, dtype=getattr(torch, args.dtype), positions=args.positions
    )
    readers = [Reader(model, method) for method in (DENSE, *methods)]
    check_positions(model, args.max_tokens)
    warn_of_leaves([(reader.name, reader.method) for reader in readers], model, args.max_tokens)
    evaluation = prepare(args, model, tokenizer)
    items = list({item.id: item for item in evaluation.items}.values())[: args.limit]
    if not items:
        raise ValueError("there is nothing to evaluate")
    evaluation = Evaluation(**{**vars(evaluation), "items": items})
    settings = {
        "evaluation": evaluation.name,
        "library": multipole_lab.__version__,
        "model": _identity(model),
        "dtype": args.dtype,
        "device": torch.device(args.device).type,
        "seed": args.seed,
        **evaluation.settings,
    }
    path = results_path(args.out, evaluation.name, args.model, settings_hash(settings))
    measured = Measured.here(args.device, args.dtype, "multipole-lab eval")
    with Journal(path, settings, measured.facts()) as journal:
        try:
            rows = frame(run_items(evaluation, readers, journal, measured.device), journal.settings)
        except KeyboardInterrupt:
            print(f"\n{path} keeps {len(journal.rows)} results; the same command continues", file=sys.stderr)
            raise
        table = evaluation.table(rows, [DENSE, *methods])
        table.to_csv(path.with_name(TABLE), index=False)
        pictures = evaluation.figures(rows, [DENSE, *methods])
        report.write(path.with_name(REPORT), evaluation, table, pictures, journal.header)
    print(report.as_text(table))
    print(f"\nMeasured on {measured}")
    _tell_of_exact_calls(rows)
    _tell_of_machines(rows)
    print(f"\n{path}\n{path.with_name(TABLE)}\n{path.with_name(REPORT)}")
    return table


def frame(rows: Sequence[dict], settings: dict) -> pandas.DataFrame:
    """Rows as a frame that carries its settings."""
    result = pandas.DataFrame(rows)
    result.attrs["settings"] = settings
    return result


def _check(args: argparse.Namespace) -> None:
    for name, least in {"max_tokens": 2, "limit": 1, "seed": 0, "threads": 1}.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; at least {least} is needed")
    if Path(args.model).expanduser().is_file():
        raise ValueError(f"--model {args.model} is a file; a folder, a hub id or a short name is needed")


def _tell_of_exact_calls(rows: pandas.DataFrame) -> None:
    """Where a method did not take the place of the model's attention, its figures are partly those of dense."""
    for method, calls in rows.groupby("method", sort=False)["calls"]:
        total = sum(map(Counter, calls), Counter())
        for reason, count in total.items():
            if reason != "approximated":
                print(f"{method}: {count:,} of {total.total():,} calls of attention stayed exact: {reason}")


def _tell_of_machines(rows: pandas.DataFrame) -> None:
    """Where an evaluation went on on another machine, its seconds are of several and say little."""
    known = list(dict.fromkeys(rows["device"].dropna())) if "device" in rows else []
    if len(known) > 1:
        print(f"seconds are of {len(known)} machines, not to be compared: {'; '.join(known)}")


def _identity(model: object) -> dict:
    """What tells one model from another: its name and source, its configuration, its weights."""
    config = {k: v for k, v in model.config.to_dict().items() if not k.startswith("_")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return {**describe_model(model), "config": digest, "weights": weights_digest(model)}
