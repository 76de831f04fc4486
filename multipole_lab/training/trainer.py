"""The transformers Trainer with the lab's data order, clocks, log and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments

from multipole_lab.environment import machine
from multipole_lab.interface.functions import Output, attend_exactly, hooked
from multipole_lab.training.checkpoints import Checkpoints
from multipole_lab.training.clocks import AttentionClock, Stopwatch
from multipole_lab.training.journal import Journal
from multipole_lab.training.presets import Preset
from multipole_lab.training.processes import world_size
from multipole_lab.training.texts.parts import NO_TARGET

FINAL_RATE = 0.1  # of the peak, where the cosine ends


class LabTrainer(Trainer):
    """Trainer, but for three things: sequences come in the order of the data set (which has the seed's order), and
    checkpoints are written and read without pickle, by ``Checkpoints``."""

    checkpoints: Checkpoints

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(
            self.train_dataset if train_dataset is None else train_dataset
        )

    def _save_checkpoint(self, model, trial=None):
        self.checkpoints.write()

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """Nothing: the model was made from the checkpoint's weights."""


class PartsTrainer(LabTrainer):
    """A trainer of parts of sequences; ``parts`` and ``context``, the tokens of a whole one, are set after creation.

    Gradients are averaged over all processes, so a process counts its part's loss P times: the mean over the processes
    is that of all tokens.
    """

    parts: int
    context: int

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        """P times the part's share of the mean loss of its sequences."""
        inputs = dict(inputs)
        targets = inputs.pop("labels")
        outputs = model(**inputs, use_cache=False)
        logits = outputs.logits.float().flatten(0, 1)
        total = cross_entropy(logits, targets.flatten(), ignore_index=NO_TARGET, reduction="sum")
        loss = total * self.parts / (len(targets) * (self.context - 1))
        return (loss, outputs) if return_outputs else loss


def training_arguments(
    preset: Preset, folder: Path, device: str, seed: int, fsdp: dict | None = None
) -> TrainingArguments:
    """A preset in the Trainer's words."""
    alone = world_size() == 1
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=preset.steps,
        per_device_train_batch_size=preset.batch,
        per_device_eval_batch_size=preset.batch,
        gradient_accumulation_steps=preset.accumulate,
        learning_rate=preset.rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": FINAL_RATE},
        warmup_steps=preset.warmup,
        weight_decay=preset.decay,
        max_grad_norm=preset.clip,
        adam_beta2=0.95,
        optim="adamw_torch_fused" if device == "cuda" else "adamw_torch",
        bf16=preset.precision == "bf16",
        fp16=preset.precision == "fp16",
        use_cpu=device == "cpu",
        ddp_backend="gloo" if device == "cpu" and not alone else None,
        ddp_find_unused_parameters=None if alone else False,
        seed=seed,
        prediction_loss_only=True,
        logging_nan_inf_filter=False,  # a look at every loss would make the host wait, and would hide a NaN
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        report_to=_boards(),
        disable_tqdm=True,
        dataloader_pin_memory=device == "cuda",
        accelerator_config={
            "non_blocking": device == "cuda"
        },  # a copy that waits would wait for the whole step
        remove_unused_columns=False,
        **({} if fsdp is None else {"fsdp": True, "fsdp_config": fsdp}),
    )
    if alone and arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process trains on one GPU; nn.DataParallel is never what is meant
    return arguments


def _boards() -> list[str]:
    """TensorBoard, where it is installed."""
    from transformers.integrations import is_tensorboard_available

    return ["tensorboard"] if is_tensorboard_available() else []


class ExactLast(TrainerCallback):
    """Computes a model's attention exactly in the steps for which ``attention(step)`` is "exact", and in the looks at
    the held-out text after them."""

    def __init__(self, attention: Callable[[int], str]) -> None:
        self.attention, self.exact = attention, False

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[ExactLast]:
        """Stand between the model and its method, so that clocks and hooks entered later count both."""
        with hooked(model, self._attend):
            yield self

    def on_step_begin(self, args, state, control, **kwargs):
        self.exact = self.attention(state.global_step + 1) == "exact"

    def _attend(self, former: Callable[..., Output], *args: object, **kwargs: object) -> Output:
        return (attend_exactly if self.exact else former)(*args, **kwargs)


class Recorder(TrainerCallback):
    """Says when to log, to look at the held-out text, to save and to stop; writes the log.

    Parameters
    ----------
    every : steps between two looks and two checkpoints. log_every : steps between two rows.
    device : what is trained on; every row names it.
    clock : of the attention. journal : None where another process writes.
    stop : asked after every step whether it was the last, for a limit on time.
    show : called with every row.
    attention : what a step is computed by, which every row says; where it changes, a row ends, with a look and a
        checkpoint.
    """

    def __init__(
        self,
        every: int,
        log_every: int,
        tokens_per_step: int,
        device: str,
        clock: AttentionClock,
        journal: Journal | None,
        stop: Callable[[int], bool] = lambda step: False,
        show: Callable[[dict], None] = lambda row: None,
        attention: Callable[[int], str] = lambda step: "exact",
    ) -> None:
        self.attention = attention
        self.every, self.log_every, self.tokens = every, log_every, tokens_per_step
        self.clock, self.journal, self.stop, self.show = clock, journal, stop, show
        self.watch, self.device = Stopwatch(device), machine(device)
        self._begun: object = None
        self._steps = 0
        self.last_row: dict = {}

    def on_step_begin(self, args, state, control, **kwargs):
        self._begun = self.watch.now()

    def on_step_end(self, args, state, control, **kwargs):
        self.watch.add(self._begun, self.watch.now())
        self._steps += 1
        step = state.global_step
        last = step >= state.max_steps or self.stop(step)
        control.should_training_stop = last
        edge = last or self.attention(step) != self.attention(step + 1)
        control.should_log = edge or step % self.log_every == 0
        control.should_evaluate = control.should_save = edge or step % self.every == 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs is None or "loss" not in logs:
            return  # the sums at the end of a run
        ms, layers = self.watch.take(), self.clock.take()
        steps, self._steps = max(1, self._steps), 0
        row = {
            "step": state.global_step,
            "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm"),
            "rate": logs["learning_rate"],
            "device": self.device,  # a run may go on on another machine
            "seconds": ms / 1e3 / steps,
            "tokens_per_second": self.tokens / max(1e-9, ms / 1e3 / steps),
            "attention_seconds": sum(layers.values()) / 1e3 / steps,
            "attention_by_layer": {str(layer): x / 1e3 / steps for layer, x in layers.items()},
        }
        logs.update(
            {name: row[name] for name in ("tokens_per_second", "attention_seconds")}
        )  # for TensorBoard
        self._note(row)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        row = {"step": state.global_step, "heldout_loss": metrics["eval_loss"], "time": time.time()}
        self._note(row)

    def _note(self, row: dict) -> None:
        row["attention"] = self.attention(row["step"])
        self.last_row = {**self.last_row, **row}
        if self.journal is not None:
            self.journal.write(row)
            self.show(row)
