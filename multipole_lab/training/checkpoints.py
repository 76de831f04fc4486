"""Checkpoints without pickle: weights and optimizer as safetensors, all else as JSON, whole or not there.

A checkpoint is written into a folder with a passing name, which is renamed when all is in it and on the disk. What a
run needs to go on as if nothing had happened: weights, the optimizer's moments, the schedule's place and the scaler of
half precision. It needs no state of a random generator: the step alone says which text comes next, clusterings draw
from generators of their own, and nothing in the model is random.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
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

from multipole_lab.files import new_folder

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
            "folder with --out, or start again with --restart"
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
    resume : a checkpoint whose optimizer the trainer starts with.
    attention : what a step is computed by; a checkpoint says it of its own.
    """

    KEPT = 2

    def __init__(self, folder: Path, resume: Path | None, attention: Callable[[int], str]) -> None:
        self.folder, self.resume, self.attention = Path(folder), resume, attention
        self.trainer: Trainer | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if self.resume is not None:
            self._restore(self.resume)

    def write(self) -> None:
        """Write one now. Every process calls this: with FSDP each has a part of the weights."""
        trainer = self.trainer
        step, accelerator = trainer.state.global_step, trainer.accelerator
        weights = accelerator.get_state_dict(trainer.model_wrapped)
        moments = get_optimizer_state_dict(trainer.model_wrapped, _plain(trainer.optimizer), options=_OPTIONS)
        if not trainer.is_world_process_zero():
            accelerator.wait_for_everyone()
            return
        tensors = {
            f"{name}{_BETWEEN}{what}": x.detach().cpu().contiguous()
            for name, kept in moments["state"].items()
            for what, x in kept.items()
        }
        scaler = accelerator.scaler
        record = {
            "step": step,
            "attention": self.attention(step),
            "groups": _jsonable(moments["param_groups"]),
            "schedule": _jsonable(trainer.lr_scheduler.state_dict()),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        for left in self.folder.glob(".checkpoint-*"):  # of a run that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        place = self.folder / f"checkpoint-{step}"
        with new_folder(place) as new:
            with _no_bars():
                accelerator.unwrap_model(trainer.model).save_pretrained(new, state_dict=weights)
            if trainer.processing_class is not None:
                trainer.processing_class.save_pretrained(new)
            save_file(tensors, new / OPTIMIZER)
            trainer.state.save_to_json(str(new / TRAINER))
            (new / STATE).write_text(json.dumps(record), encoding="utf-8")
            shutil.rmtree(place, ignore_errors=True)  # of an earlier run that went on from before this step
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
