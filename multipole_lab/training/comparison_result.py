"""What a comparison of two trainings has found: its numbers, its curves and its words."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable

from multipole_lab.method_text import check_method
from multipole_lab.training.presets import PRECISIONS

SIDES = ("exact", "muse")
WIDTH = 58  # of the table: a notebook in a window of 900 pixels has no more letters in a line
# Of each side: its name in the results, what makes the printed unit of it, how it is printed, and its printed name.
Column = tuple[str, float, str, str]
COLUMNS: tuple[Column, ...] = (
    ("heldout_loss", 1, "7.4f", "held-out loss"),
    ("seconds", 1e3, "7.1f", "ms a step"),
    ("attention_seconds", 1e3, "7.1f", "ms in attention"),
)
# The first steps of a side, and its first row, are left out of its times: kernels are compiled and memory is found.
WARM = 3


def summarise(found: dict[int, dict[str, list[dict]]]) -> dict:
    """The table: a row a seed, and mean and standard deviation over the seeds (see ``equally_long``).

    Losses are compared at the last step at which both sides looked at the held-out text; times are medians over the
    steps that both have done, the first few left out. Differences are MuSe's, in percent of exact's: less is better.
    """
    rows = []
    for seed, sides in found.items():
        looks = {
            side: {r["step"]: r["heldout_loss"] for r in sides[side] if "heldout_loss" in r} for side in SIDES
        }
        shared = set.intersection(*(set(x) for x in looks.values()))
        steps = {side: {r["step"]: r for r in sides[side] if "loss" in r} for side in SIDES}
        both = sorted(set.intersection(*(set(x) for x in steps.values())))
        timed = [step for step in both[1:] if step > WARM] or both
        if not shared or not both:
            continue
        step = max(shared)
        row = {"seed": seed, "steps": step}
        for side in SIDES:
            of = [steps[side][s] for s in timed]
            row |= {
                f"{side}_heldout_loss": looks[side][step],
                f"{side}_seconds": statistics.median(r["seconds"] for r in of),
                f"{side}_attention_seconds": statistics.median(r["attention_seconds"] for r in of),
                f"{side}_tokens_per_second": statistics.median(r["tokens_per_second"] for r in of),
            }
        for what in ("heldout_loss", "seconds", "attention_seconds"):
            exact, muse = row[f"exact_{what}"], row[f"muse_{what}"]
            row[f"{what}_difference"] = None if None in (exact, muse) else 100 * (muse / exact - 1)
        row["by_layer"] = _by_layer(steps, timed)
        rows.append(row)
    spread = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows if isinstance(row[name], float)]
        if len(values) == len(rows) and name not in ("seed", "steps"):
            deviation = statistics.stdev(values) if len(values) > 1 else None
            spread[name] = {"mean": statistics.fmean(values), "deviation": deviation}
    return {"seeds": rows, "summary": spread}


def _by_layer(steps: dict[str, dict[int, dict]], timed: list[int]) -> dict[str, dict[str, float]]:
    """Median seconds of attention in every layer, for both sides."""
    layers = steps["exact"][timed[0]]["attention_by_layer"]
    return {
        layer: {
            side: statistics.median(steps[side][s]["attention_by_layer"][layer] for s in timed)
            for side in SIDES
        }
        for layer in layers
    }


def curve(rows: list[dict]) -> dict:
    """What is drawn of one run's log: losses and times by step."""
    steps = [row for row in rows if "loss" in row]
    looks = [row for row in rows if "heldout_loss" in row]
    return {
        "step": [row["step"] for row in steps],
        **{name: [_digits(row[name]) for row in steps] for name in ("loss", "seconds", "attention_seconds")},
        "heldout_step": [row["step"] for row in looks],
        "heldout_loss": [_digits(row["heldout_loss"]) for row in looks],
    }


def _digits(x: float | None) -> float | None:
    """Six digits, which is what a curve shows; the log has them all."""
    return None if x is None else float(f"{x:.6g}")


def equally_long(result: dict) -> bool:
    """Whether the seeds are compared at one step: losses at different steps have no mean."""
    return len({row["steps"] for row in result["seeds"]}) < 2


def figure(result: dict):
    """The curves of a result, as it stands; its title says a mean loss only where seeds went equally far."""
    from multipole_lab.figures import training as draw

    curves = result["curves"]
    every = [curves[seed] for seed in curves if all(curves[seed][side]["step"] for side in SIDES)]
    said = result["summary"] if equally_long(result) else {}
    return draw.training(
        {side: [(c[side]["step"], c[side]["loss"], _warm(c[side])) for c in every] for side in SIDES},
        {side: [(c[side]["heldout_step"], c[side]["heldout_loss"]) for c in every] for side in SIDES},
        {name: x["mean"] for name, x in said.items()},
        method=_method(result),
        machine=_place(result),
    )


def _warm(side: dict) -> list[float]:
    """Seconds of each step with the first few at the median of the others, as in the table.

    Compiling and finding memory are paid once, and would put the seeds of one side many steps apart.
    """
    steps, seconds = side["step"], side["seconds"]
    kept = [s for i, s in zip(steps[1:], seconds[1:], strict=True) if i > WARM] or seconds
    return [
        statistics.median(kept) if i <= WARM or i == steps[0] else s
        for i, s in zip(steps, seconds, strict=True)
    ]


def _method(result: dict) -> str:
    """The approximation, in the names of today also where the record has older ones."""
    return check_method(result["preset"]["method"])


def _place(result: dict) -> str:
    """Device and precision, also of results that were recorded before they named the precision."""
    return f"{result['device']}, {PRECISIONS[result['preset']['precision']]}"


def _line(
    label: object, steps: object, value: Callable[[str], float], column: Column, sign: str = "+"
) -> str:
    """A line of the table; ``value`` gives what stands in it by name."""
    name, factor, form, _ = column
    cells = [f"{value(f'{side}_{name}') * factor:{form}}" for side in SIDES]
    return " ".join([f"{label:>4} {steps:>5}", *cells, f"{value(f'{name}_difference'):{sign}6.2f}%"])


def _lines(result: dict, column: Column) -> list[str]:
    """What the table says of one quantity: a line a seed, and their mean where they went equally far."""
    rows, summary = result["seeds"], result["summary"]
    lines = [_line(row["seed"], row["steps"], lambda name, row=row: row[name], column) for row in rows]
    if len(rows) > 1 and equally_long(result):
        lines.append(_line("mean", "", lambda name: summary[name]["mean"], column))
        lines.append(_line("s.d.", "", lambda name: summary[name]["deviation"], column, sign=""))
    return [f"{column[-1] if i == 0 else '':<15} {line}" for i, line in enumerate(lines)]


def table(result: dict) -> str:
    """The result in words and numbers, a block of lines for each quantity."""
    rows = result["seeds"]
    if not rows:
        return "no held-out loss yet"
    p = result["preset"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    where = f"{_place(result)}; {versions}; {result['date']}"
    what = (
        f"context {p['context']:,}, batch {p['batch'] * p['accumulate']}; {_method(result)} in layer "
        f"{', '.join(map(str, p['muse_layers']))} of {p['layers']}; exact: {result['exact_backend']}"
    )
    lines = [
        textwrap.fill(where, WIDTH),
        textwrap.fill(what, WIDTH),
        f"{'':15} {'seed':>4} {'steps':>5} {'exact':>7} {'MuSe':>7} {'diff':>7}",
        *(line for column in COLUMNS for line in _lines(result, column)),
    ]
    if not equally_long(result):
        lines.append("seeds of different lengths: no mean")
    changes = []
    for layer in p["muse_layers"]:
        times = [row["by_layer"][str(layer)] for row in rows]
        change = statistics.fmean(100 * (t["muse"] / t["exact"] - 1) for t in times)
        changes.append(f"layer {layer} {change:+.1f}%")
    lines.append(textwrap.fill(f"time of attention, forward and backward: {', '.join(changes)}", WIDTH))
    return "\n".join(lines)
