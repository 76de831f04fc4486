"""Checkpoints without pickle: weights and optimizer as safetensors, all else as JSON, whole or not there.

A checkpoint is written into a folder with a passing name, which is renamed when all is in it and on the disk. What a
run needs to go on as if nothing had happened: weights, the optimizer's moments, the schedule's place, the scaler of
half precision, and the states of the random generators of every process.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from transformers import Trainer, TrainerCallback

OPTIMIZER, STATE, TRAINER = "optimizer.safetensors", "state.json", "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True)
_BETWEEN = "/"  # a parameter's name and what the optimizer keeps of it


def checkpoints(folder: str | Path) -> dict[int, Path]:
    """All whole checkpoints of a run by their step, the newest last.

    One that cannot be read to its end (a full disk, a copy that was cut off) is left out with a warning, so that a run
    goes on from the one before; it stays where it is until the run writes that step again.

    Raises
    ------
    ValueError : the run has checkpoints, and none of them is whole.
    """
    found, damaged = {}, {}
    for path in Path(folder).glob("checkpoint-*"):
        if match := _NAME.fullmatch(path.name):
            fault = damage(path)
            if fault is None:
                found[int(match[1])] = path
            else:
                damaged[path] = fault
    if damaged and not found:
        raise ValueError(
            f"no checkpoint of {folder} is whole: {'; '.join(damaged.values())}. Put the files back, name another "
            "folder with --out, or begin anew with --restart"
        )
    for path, fault in damaged.items():
        warnings.warn(f"{path} is left out, for it is not whole: {fault}", stacklevel=2)
    return dict(sorted(found.items()))


def damage(checkpoint: Path) -> str | None:
    """Which file of a checkpoint is missing or cut off, in words; None where all are whole.

    Lengths are looked at and JSON is read; a number that was changed inside a file is not noticed.
    """
    needed = ["config.json", OPTIMIZER, STATE, TRAINER]
    missing = [name for name in needed if not (checkpoint / name).is_file()]
    if not missing and not list(checkpoint.glob("model*.safetensors")):
        missing = ["model.safetensors"]
    if missing:
        return f"{checkpoint / missing[0]} is missing"
    for path in sorted(checkpoint.iterdir()):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):  # compares the file's length with its header
                    pass
            elif path.suffix == ".json":
                json.loads(path.read_bytes())
        except (SafetensorError, ValueError) as error:
            return f"{path} is damaged ({error})"
    return None


class Checkpoints(TrainerCallback):
    """Writes checkpoints, keeps the last two, and restores one.

    Parameters
    ----------
    folder : of the run.
    resume : a checkpoint whose optimizer and random states the trainer starts with.
    """

    KEPT = 2

    def __init__(self, folder: Path, resume: Path | None = None) -> None:
        self.folder, self.resume = Path(folder), resume
        self.trainer: Trainer | None = None
        self._random: dict | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if self.resume is not None:
            self._restore(self.resume)

    def on_step_begin(self, args, state, control, **kwargs):
        if self._random is not None:  # behind the data loader, which draws a number when it starts
            _set_random(self._random)
            self._random = None

    def write(self) -> None:
        """Write one now. Every process calls this: with FSDP each has a part of the weights."""
        trainer = self.trainer
        step, accelerator = trainer.state.global_step, trainer.accelerator
        weights = accelerator.get_state_dict(trainer.model_wrapped)
        moments = get_optimizer_state_dict(trainer.model_wrapped, _plain(trainer.optimizer), options=_OPTIONS)
        states = _gathered(_random_state())
        if not trainer.is_world_process_zero():
            accelerator.wait_for_everyone()
            return
        place = self.folder / f"checkpoint-{step}"
        made = self.folder / f".checkpoint-{step}"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        with _no_bars():
            accelerator.unwrap_model(trainer.model).save_pretrained(made, state_dict=weights)
        if trainer.processing_class is not None:
            trainer.processing_class.save_pretrained(made)
        tensors = {
            f"{name}{_BETWEEN}{what}": x.detach().cpu().contiguous()
            for name, kept in moments["state"].items()
            for what, x in kept.items()
        }
        save_file(tensors, made / OPTIMIZER)
        trainer.state.save_to_json(str(made / TRAINER))
        scaler = accelerator.scaler
        record = {
            "step": step,
            "groups": _jsonable(moments["param_groups"]),
            "schedule": _jsonable(trainer.lr_scheduler.state_dict()),
            "scaler": None if scaler is None else scaler.state_dict(),
            "random": states,
        }
        (made / STATE).write_text(json.dumps(record), encoding="utf-8")
        _to_disk(made)
        shutil.rmtree(place, ignore_errors=True)  # of an earlier run that went on from before this step
        os.replace(made, place)
        for old in list(checkpoints(self.folder).values())[: -self.KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        accelerator.wait_for_everyone()

    def _restore(self, folder: Path) -> None:
        trainer = self.trainer
        record = json.loads((folder / STATE).read_text(encoding="utf-8"))
        moments: dict = {"state": {}, "param_groups": record["groups"]}
        for name, x in load_file(folder / OPTIMIZER).items():
            parameter, what = name.split(_BETWEEN)
            moments["state"].setdefault(parameter, {})[what] = x
        set_optimizer_state_dict(trainer.model_wrapped, _plain(trainer.optimizer), moments, options=_OPTIONS)
        trainer.lr_scheduler.load_state_dict(record["schedule"])
        if record["scaler"] and trainer.accelerator.scaler is not None:
            trainer.accelerator.scaler.load_state_dict(record["scaler"])
        states = record["random"]
        self._random = (
            states[trainer.args.process_index] if trainer.args.process_index < len(states) else None
        )


def _to_disk(folder: Path) -> None:
    """Wait until every file is on the disk: a name that outlives a power cut must not stand for an empty file."""
    for path in folder.iterdir():
        with path.open("r+b") as file:
            os.fsync(file.fileno())


@contextmanager
def _no_bars() -> Iterator[None]:
    """One small file needs no bar of progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _plain(optimizer):
    """Torch's optimizer inside accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)


def _jsonable(x: object) -> object:
    """Tuples and arrays as lists."""
    if isinstance(x, dict):
        return {name: _jsonable(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return [_jsonable(value) for value in x]
    if isinstance(x, np.generic) or torch.is_tensor(x):
        return x.item() if x.ndim == 0 else x.tolist()
    return x


def _random_state() -> dict:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  what others draw from
    state = {
        "python": _jsonable(random.getstate()),
        "numpy": [name, keys.tolist(), *_jsonable(rest)],
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = bytes(torch.cuda.get_rng_state().tolist()).hex()
    return state


def _set_random(state: dict) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    torch.set_rng_state(_bytes(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes(state["cuda"]))


def _bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def _gathered(state: dict) -> list[dict]:
    """The states of all processes, by rank."""
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [state]
    # Not all_gather_object, which would pickle: the text of the JSON as bytes, padded to the longest.
    data = json.dumps(state).encode()
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(data)], device=device))
    longest = int(max(sizes))
    mine = torch.zeros(longest, dtype=torch.uint8, device=device)
    mine[: len(data)] = torch.tensor(list(data), dtype=torch.uint8, device=device)
    rows = [torch.zeros_like(mine) for _ in sizes]
    dist.all_gather(rows, mine)
    return [json.loads(bytes(row[: int(n)].tolist()).decode()) for row, n in zip(rows, sizes, strict=True)]
