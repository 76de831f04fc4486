"""Where the time of a step goes: kernels by name, the time in which none runs, and the lanes of every process."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from multipole_lab import files
from multipole_lab.environment import Measured
from multipole_lab.training.presets import PRECISIONS
from multipole_lab.training.processes import rank, world_size
from multipole_lab.training.profiles.lanes import STEP, WARM, lanes


def file_name(rank: int) -> str:
    """Where the process of that rank writes."""
    return f"profile-{rank}.json" if rank else "profile.json"


class Profile(TrainerCallback):
    """Looks at some steps with torch's profiler and writes ``profile.json``; the times of those steps are not honest.

    Of several processes each writes a file of its own, ``profile-1.json`` and so on for all but the first, with the
    lanes of its last step (`lanes.lanes`) and "began_s", that step's beginning on the computer's clock: processes of
    one computer can be drawn below each other (``ml.figures.step``).

    Parameters
    ----------
    folder : of the run. steps : looked at. after : steps that warm up first. rows : kernels listed, the longest.
    """

    def __init__(self, folder: Path, steps: int, after: int = WARM, rows: int = 40) -> None:
        self.folder, self.steps, self.after, self.rows = Path(folder), steps, after, rows
        self._done = 0
        self._profiler: torch.profiler.profile | None = None

    def on_step_begin(self, args, state, control, **kwargs):
        if self._done == self.after:
            _wait(args.device)
            self._profiler = torch.profiler.profile()
            self._profiler.__enter__()
            self._begun = time.perf_counter()
        if self._profiler is not None:
            self._step_began = time.time()
            self._step = torch.profiler.record_function(STEP)
            self._step.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        self._done += 1
        if self._profiler is None:
            return
        last = self._done == self.after + self.steps
        if last:
            _wait(args.device)
        self._step.__exit__(None, None, None)
        if not last:
            return
        wall = time.perf_counter() - self._begun
        self._profiler.__exit__(None, None, None)
        precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
        facts = Measured.here(args.device, PRECISIONS[precision], "train_run").facts()
        table = {**facts, **summarise(self._profiler.key_averages(), self.steps, wall, self.rows)}
        table |= {"rank": rank(), "processes": world_size(), "began_s": self._step_began}
        table["lanes"] = lanes(self._profiler.events())
        files.write(self.folder / file_name(rank()), json.dumps(table, indent=1))
        self._profiler = None


def summarise(events, steps: int, wall: float, rows: int = 40) -> dict:
    """Milliseconds a step: in all, in kernels, in none, and by kernel (on a CPU: by operation), the longest first."""
    events = [
        e for e in events if not (e.is_user_annotation or e.key == STEP or e.key.startswith("## Call"))
    ]  # no work of their own
    on_gpu = [e for e in events if e.device_type != torch.autograd.DeviceType.CPU]
    kind = "kernels" if on_gpu else "operations"
    found = [(e.self_device_time_total if on_gpu else e.self_cpu_time_total, e) for e in on_gpu or events]
    found.sort(key=lambda pair: -pair[0])
    busy = sum(us for us, _ in found) / 1e3 / steps
    step = wall * 1e3 / steps
    return {
        "steps": steps,
        "step_ms": step,
        f"{kind}_ms": busy,
        "idle_ms": max(0.0, step - busy),
        "launches": sum(e.count for _, e in found) / steps,
        kind: [
            {"name": e.key[:100], "ms": us / 1e3 / steps, "count": e.count / steps} for us, e in found[:rows]
        ],
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
