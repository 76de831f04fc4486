"""Exact attention and a method, trained side by side on one device, as the table of MuSe's paper has them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

from multipole_lab import files
from multipole_lab.suggesting import suggesting
from multipole_lab.training.comparison_result import SIDES, curve, figure, summarise
from multipole_lab.training.journal import Journal
from multipole_lab.training.presets import PRECISIONS, Preset
from multipole_lab.training.processes import world_size
from multipole_lab.training.run import Run, check_resumable, train_run
from multipole_lab.training.texts.corpus import Corpus

RESULT, FIGURE = "compare.json", "compare.html"


@suggesting
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
    The result, see ``comparison_result.summarise``.

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
    """Remove runs, to start again."""
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

    from multipole_lab.measure.references import BACKENDS, fastest_reference

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


def _write(
    folder: Path, preset: Preset, corpus: Corpus, runs: dict, device: str, backend: str, compiled: bool
) -> dict:
    """Write the result as it stands, each file whole or not at all."""
    from multipole_lab.environment import Measured

    found = {
        seed: {side: Journal(run.folder).rows() for side, run in sides.items()}
        for seed, sides in runs.items()
    }
    measured = Measured.here(device, PRECISIONS[preset.precision], "multipole-lab train compare")
    every = [row for sides in found.values() for rows in sides.values() for row in rows]
    trained_on = dict.fromkeys(row["device"] for row in every if "device" in row)
    result = {
        **measured.facts(),
        "device": " and ".join(trained_on) or measured.device,
        "exact_backend": backend,
        "compiled": compiled,
        "preset": preset.to_dict(),
        "text": corpus.record,
        **summarise(found),
        "curves": {
            str(seed): {side: curve(rows) for side, rows in sides.items()} for seed, sides in found.items()
        },
    }
    files.write(folder / RESULT, json.dumps(result, indent=1))
    try:
        drawn = figure(result)
    except (
        ModuleNotFoundError
    ):  # a machine that only trains needs no plotly; the JSON holds all that is drawn
        return result
    files.write(folder / FIGURE, drawn.to_html(include_plotlyjs=True, full_html=True))
    return result
