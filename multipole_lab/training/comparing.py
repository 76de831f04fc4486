"""Exact attention and a method, trained side by side on one device, as the table of MuSe's paper has them."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

from multipole_lab.training.corpus import Corpus
from multipole_lab.training.journal import Journal
from multipole_lab.training.presets import Preset
from multipole_lab.training.processes import world_size
from multipole_lab.training.running import Run, check_resumable, train_run

RESULT, FIGURE = "compare.json", "compare.html"
SIDES = ("exact", "muse")
# The first steps of a side, and its first row, are left out of its times: kernels are compiled and memory is found.
WARM = 3


def compare_training(
    preset: Preset,
    corpus: Corpus,
    folder: str | Path,
    seeds: Sequence[int] = (0, 1, 2),
    device: str = "cpu",
    log_every: int = 1,
    max_seconds: float | None = None,
    show: Callable[[str, int, dict], None] = lambda side, seed, row: None,
    compiled: bool = False,
) -> dict:
    """Train both for every seed, taking turns step by step, from the same weights on the same text.

    What is finished is kept, what was interrupted goes on from the last checkpoint that both sides have. The result is
    written after every look at the held-out text, as ``compare.json`` and ``compare.html``.

    Parameters
    ----------
    folder : the runs lie in ``seed-0/exact``, ``seed-0/muse``, ...
    max_seconds : for all seeds together, each getting its share of what is left; both sides then do the same number of
        steps, and the row says how many.
    show : called with side, seed and row of every log row.
    compiled : compile what lies around attention, on both sides; see ``compile_parts``.

    Returns
    -------
    The result, see ``summarise``.

    Raises
    ------
    ValueError : the folder holds another comparison; several processes (the point is one device).
    """
    from multipole_lab.training.checkpoints import checkpoints
    from multipole_lab.training.turns import side_by_side

    if world_size() > 1:
        raise ValueError("train compare takes turns on one device; run it without torchrun")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {list(seeds)}; at least one is needed, each once")
    folder = Path(folder)
    runs = {
        seed: {
            side: Run(
                preset, corpus, None if side == "exact" else preset.method, seed, device,
                folder / f"seed-{seed}" / side, log_every, compiled,
            )
            for side in SIDES
        }
        for seed in seeds
    }  # fmt: skip
    for sides in runs.values():
        for run in sides.values():
            check_resumable(run.folder, run.settings)
    folder.mkdir(parents=True, exist_ok=True)
    ends = None if max_seconds is None else time.monotonic() + max_seconds
    with ExitStack() as stack:
        backend = stack.enter_context(_fastest_exact(preset, device))

        def result() -> dict:
            return _write(folder, preset, corpus, runs, device, backend, compiled)

        for i, (seed, sides) in enumerate(runs.items()):
            seconds = None if ends is None else max(0.0, ends - time.monotonic()) / (len(seeds) - i)
            shared = set.intersection(*(set(checkpoints(run.folder)) for run in sides.values()))
            start = max(shared, default=0)
            if start >= preset.steps:
                continue

            def side(name: str, run: Run, seed=seed, start=start):
                def train(take_turns, over):
                    def row(row: dict) -> None:
                        show(name, seed, row)
                        if "heldout_loss" in row:
                            result()

                    return train_run(run, resume=start, callbacks=[take_turns], stop=over, show=row)

                return train

            side_by_side({name: side(name, run) for name, run in sides.items()}, seconds)
        return result()


def forget(folder: Path, seeds: Sequence[int], sides: Sequence[str] = SIDES) -> None:
    """Remove runs, to begin anew."""
    for seed in seeds:
        for side in sides:
            shutil.rmtree(folder / f"seed-{seed}" / side, ignore_errors=True)
    for name in (RESULT, FIGURE):
        (folder / name).unlink(missing_ok=True)


def _fastest_exact(preset: Preset, device: str):
    """A context in which torch's attention takes its fastest kernel at the preset's shape; yields its name."""
    if device != "cuda":
        return nullcontext("sdpa")
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from multipole_lab.analysis.references import BACKENDS, fastest_reference

    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[preset.precision]
    shape = preset.batch, preset.heads, preset.context, preset.width // preset.heads
    q, k, v = (torch.randn(shape, device="cuda", dtype=dtype) for _ in range(3))
    name, _ = fastest_reference(q, k, v, causal=True)
    others = [b for b in BACKENDS.values() if b not in (BACKENDS[name], SDPBackend.MATH)] + [SDPBackend.MATH]

    class Named:
        def __enter__(self):
            self.inner = sdpa_kernel([BACKENDS[name], *others], set_priority=True)
            self.inner.__enter__()
            return name

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

    return Named()


def _command() -> str:
    """What was typed, where it was typed."""
    from multipole_lab.analysis.bench_record import typed_command

    return typed_command() if sys.argv[1:2] == ["train"] else "multipole-lab train compare"


def _write(
    folder: Path, preset: Preset, corpus: Corpus, runs: dict, device: str, backend: str, compiled: bool
) -> dict:
    """Write the result as it stands, each file whole or not at all."""
    from multipole_lab.analysis.timing import machine
    from multipole_lab.models.provenance import versions

    found = {
        seed: {side: Journal(run.folder).rows() for side, run in sides.items()}
        for seed, sides in runs.items()
    }
    result = {
        "command": _command(),
        "device": machine(),
        **versions(),
        "exact_backend": backend,
        "compiled": compiled,
        "preset": preset.to_dict(),
        "text": corpus.record,
        **summarise(found),
        "curves": {
            str(seed): {side: _curve(rows) for side, rows in sides.items()} for seed, sides in found.items()
        },
    }
    _replace(folder / RESULT, json.dumps(result, indent=1))
    try:
        drawn = figure(result)
    except (
        ModuleNotFoundError
    ):  # a machine that only trains needs no plotly; the JSON holds all that is drawn
        return result
    _replace(folder / FIGURE, drawn.to_html(include_plotlyjs=True, full_html=True))
    return result


def _replace(file: Path, text: str) -> None:
    passing = file.with_suffix(f"{file.suffix}.{os.getpid()}")
    passing.write_text(text, encoding="utf-8")
    os.replace(passing, file)


def _curve(rows: list[dict]) -> dict:
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


def summarise(found: dict[int, dict[str, list[dict]]]) -> dict:
    """The table: a row a seed, and mean and standard deviation over the seeds.

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


def figure(result: dict):
    """The curves of a result, as it stands."""
    from multipole_lab.figures import training as draw

    curves = result["curves"]
    every = [curves[seed] for seed in curves if all(curves[seed][side]["step"] for side in SIDES)]
    return draw.training(
        {side: [(c[side]["step"], c[side]["loss"], c[side]["seconds"]) for c in every] for side in SIDES},
        {side: [(c[side]["heldout_step"], c[side]["heldout_loss"]) for c in every] for side in SIDES},
        {name: x["mean"] for name, x in result["summary"].items()},
        method=result["preset"]["method"],
        machine=result["device"],
    )


def table(result: dict) -> str:
    """The result in words and numbers, as wide as a terminal."""
    rows = result["seeds"]
    if not rows:
        return "no held-out loss yet"
    p = result["preset"]
    lines = [
        f"{result['device']}, torch {result['versions']['torch']}; context {p['context']:,}, "
        f"batch {p['batch'] * p['accumulate']}; {p['method']} in layer {', '.join(map(str, p['muse_layers']))} of "
        f"{p['layers']}; exact: {result['exact_backend']}",
        f"{'':>9} {'steps':>6} {'held-out loss':>17} {'':>9} {'ms a step':>17} {'':>9} {'ms in attention':>17}",
        f"{'seed':>9} {'':>6} {'exact':>8} {'MuSe':>8} {'diff':>9} {'exact':>8} {'MuSe':>8} {'diff':>9} "
        f"{'exact':>8} {'MuSe':>8} {'diff':>9}",
    ]
    kinds = (("heldout_loss", 1, ".4f"), ("seconds", 1e3, ".1f"), ("attention_seconds", 1e3, ".1f"))
    for row in rows:
        cells = [f"{row['seed']:>9} {row['steps']:>6}"]
        for name, factor, form in kinds:
            cells += [f"{row[f'{side}_{name}'] * factor:8{form}}" for side in SIDES]
            cells.append(f"{row[f'{name}_difference']:+8.2f}%")
        lines.append(" ".join(cells))
    summary = result["summary"]
    for label, key in (("mean", "mean"), ("deviation", "deviation")):
        if len(rows) == 1:
            break
        cells = [f"{label:>9} {'':>6}"]
        for name, factor, form in kinds:
            cells += [f"{summary[f'{side}_{name}'][key] * factor:8{form}}" for side in SIDES]
            sign = "+" if key == "mean" else ""
            cells.append(f"{summary[f'{name}_difference'][key]:{sign}8.2f}%")
        lines.append(" ".join(cells))
    for layer in p["muse_layers"]:
        times = [row["by_layer"][str(layer)] for row in rows]
        change = statistics.fmean(100 * (t["muse"] / t["exact"] - 1) for t in times)
        lines.append(f"attention of layer {layer} alone: {change:+.1f}% time, forward and backward")
    return "\n".join(lines)
