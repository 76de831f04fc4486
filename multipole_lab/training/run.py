"""One run: a model, a seed, exact attention or a method, from the first step or from the last checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from multipole_lab import files
from multipole_lab.environment import Measured
from multipole_lab.suggesting import suggesting
from multipole_lab.training.journal import Journal
from multipole_lab.training.limits import check_share
from multipole_lab.training.presets import PRECISIONS, Preset
from multipole_lab.training.processes import attention_in_parts, check_parts, is_first, together, world_size
from multipole_lab.training.texts.corpus import Corpus, Sequences

SETTINGS = "run.json"


@dataclass(frozen=True)
class Run:
    """What a run is to do.

    Parameters
    ----------
    preset, corpus : model, schedule and text.
    method : an approximation, as text, for the layers ``preset.muse_layers``; None for exact attention.
    seed : of the weights and of the order of the text. device : "cpu" or "cuda".
    folder : where log and checkpoints go.
    log_every : steps between two rows of the log; on a GPU reading a loss makes the host wait.
    compiled : whether what lies around attention is compiled, see ``compile_parts``.
    context_parallel : how many processes share a sequence, a part each.
    limit : seconds after which a silent process ends all, where there are several.
    exact_last : the share of the steps, rounded to whole ones, that a run of a method ends with by exact attention.

    Raises
    ------
    ValueError : ``exact_last`` is no share, or for a run that cannot end so.
    """

    preset: Preset
    corpus: Corpus
    method: str | None
    seed: int
    device: str
    folder: Path
    log_every: int = 1
    compiled: bool = False
    context_parallel: int = 1
    limit: float = 600.0
    exact_last: float = 0.0

    def __post_init__(self) -> None:
        check_share("exact_last", self.exact_last)
        if self.exact_last and (self.method is None or self.context_parallel > 1):
            why = "exact attention all along" if self.method is None else "sequences in parts"
            raise ValueError(
                f"exact_last is {self.exact_last}, for a run with {why}; it is for one with MuSe, on whole sequences"
            )

    def attention(self, step: int) -> str:
        """What a step, counted from 1, is computed by: "exact" or "muse"."""
        return "exact" if self.method is None or step > _approximate_steps(self.settings) else "muse"

    @property
    def settings(self) -> dict:
        """What must be the same for a run to go on where it stopped; see ``check_resumable``."""
        preset = self.preset.to_dict()
        if self.method is None:
            del preset["method"], preset["muse_layers"]
        else:
            preset["method"] = self.method
        return {
            **preset,
            "attention": "exact" if self.method is None else "muse",
            "seed": self.seed,
            "text_sha256": self.corpus.record["text_sha256"],
            "processes": world_size(),
            **({"compiled": True} if self.compiled else {}),
            **({"context_parallel": self.context_parallel} if self.context_parallel > 1 else {}),
            **({"exact_last": self.exact_last} if self.exact_last else {}),
        }

    @property
    def measured(self) -> Measured:
        """What belongs to the times of this run: the device's name, precision, versions and command."""
        return Measured.here(self.device, PRECISIONS[self.preset.precision], "train_run")


def check_resumable(folder: Path, settings: dict) -> None:
    """Whether a folder's run, if there is one, is this one, or was until now: before the first step that ``exact_last``
    changes, runs that differ in nothing else are one.

    Raises
    ------
    ValueError : the settings differ; the message says in what.
    """
    file = folder / SETTINGS
    if not file.is_file():
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    before, settings = _with_same_words(before), _with_same_words(settings)
    ignored = {"every", "heldout_blocks", "measured"}
    if before.get("exact_last") != settings.get("exact_last"):
        from multipole_lab.training.checkpoints import checkpoints

        if max(checkpoints(folder), default=0) <= min(map(_approximate_steps, (before, settings))):
            ignored.add("exact_last")
    # Looks at the held-out text and the machine may differ; what is learned does not depend on them.
    differ = [
        f"{name}: {before.get(name)!r} there, {settings.get(name)!r} now"
        for name in sorted({*before, *settings} - ignored)
        if before.get(name) != settings.get(name)
    ]
    if differ:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(differ)}); name another folder with --out, or start "
            "again with --restart"
        )


def _approximate_steps(settings: dict) -> int:
    """How many steps a run of a method takes with it, before those by exact attention."""
    return settings["steps"] - round(settings.get("exact_last", 0.0) * settings["steps"])


def _with_same_words(settings: dict) -> dict:
    """Settings whose method is written as this version writes it: a file of an earlier one may use other words."""
    from multipole_lab.method_text import check_method

    return settings | {"method": check_method(settings["method"])} if "method" in settings else settings


@suggesting
def train_run(
    run: Run,
    *,
    resume: int | None = None,
    callbacks: Iterable = (),
    stop: Callable[[int], bool] = lambda step: False,
    show: Callable[[dict], None] = lambda row: None,
    fsdp: dict | None = None,
) -> list[dict]:
    """Train, from the last checkpoint where the folder has one.

    Parameters
    ----------
    resume : the step of the checkpoint to go on from; the last one by default, 0 for none.
    callbacks : further transformers callbacks. stop : asked after every step whether to stop there.
    show : called with every row of the log. fsdp : an FSDP configuration, as the Trainer's ``fsdp_config``.

    Returns
    -------
    The rows of the log, from the first step on.

    Raises
    ------
    ValueError : the folder holds another run, or a context longer than the text.
    """
    from multipole_lab.training.checkpoints import checkpoints

    check_parts(run.context_parallel, world_size())
    check_resumable(run.folder, run.settings)
    whole = checkpoints(run.folder)
    resume = max(whole, default=0) if resume is None else resume
    journal = Journal(run.folder)
    if resume >= run.preset.steps:
        return journal.rows()
    with ExitStack() as stack:
        # All have read the folder before the first process changes it.
        stack.enter_context(together(run.device, run.limit))
        if is_first():
            run.folder.mkdir(parents=True, exist_ok=True)
            settings = {**run.settings, "measured": run.measured.facts()}
            files.write(run.folder / SETTINGS, json.dumps(settings, indent=1))
            journal.cut(resume)
            for step, path in whole.items():
                if step > resume:
                    shutil.rmtree(path)
        trainer = _trainer(run, whole.get(resume), journal, callbacks, stop, show, fsdp, stack)
        trainer.train(resume_from_checkpoint=str(whole[resume]) if resume else None)
    return journal.rows()


def _trainer(run: Run, start: Path | None, journal, callbacks, stop, show, fsdp, stack: ExitStack):
    from transformers import AutoModelForCausalLM, PrinterCallback

    from multipole_lab.method_text import parse_method
    from multipole_lab.models import configure_attention
    from multipole_lab.training.checkpoints import Checkpoints
    from multipole_lab.training.clocks import AttentionClock
    from multipole_lab.training.compiling import compile_parts
    from multipole_lab.training.gpt import build_model
    from multipole_lab.training.texts.parts import PartsOf
    from multipole_lab.training.trainer import (
        ExactLast,
        LabTrainer,
        PartsTrainer,
        Recorder,
        training_arguments,
    )

    p, corpus, parts = run.preset, run.corpus, run.context_parallel
    groups = world_size() // parts
    arguments = training_arguments(p, run.folder, run.device, run.seed, fsdp)
    if start is None:
        model = build_model(p, corpus.tokenizer, run.seed)
    else:
        model = AutoModelForCausalLM.from_pretrained(start, attn_implementation="sdpa")
    if run.method is not None:
        configure_attention(model, parse_method(run.method), p.muse_layers)
    if parts > 1:
        method = None if run.method is None else parse_method(run.method)
        stack.enter_context(attention_in_parts(model, method, p.muse_layers, parts, run.limit))
    if run.exact_last:
        callbacks = [*callbacks, stack.enter_context(ExactLast(run.attention).on(model))]
    clock = stack.enter_context(AttentionClock(run.device).on(model))
    if run.compiled:
        compile_parts(model)
    held = min(p.heldout_blocks, corpus.blocks("heldout", p.context))
    recorder = Recorder(
        p.every, run.log_every, p.tokens_per_step(groups), run.device, clock, journal if is_first() else None, stop,
        show, run.attention,
    )  # fmt: skip
    saving = Checkpoints(run.folder, start, run.attention)
    learned = Sequences(corpus, "train", p.context, p.steps * p.batch * p.accumulate * groups, run.seed)
    looked_at = Sequences(corpus, "heldout", p.context, held)
    if parts > 1:
        learned, looked_at = PartsOf(learned, parts, p.batch), PartsOf(looked_at, parts, p.batch)
    trainer = (LabTrainer if parts == 1 else PartsTrainer)(
        model=model,
        args=arguments,
        train_dataset=learned,
        eval_dataset=looked_at,
        processing_class=corpus.tokenizer,
        callbacks=[*callbacks, recorder, saving],  # who waits for a turn waits before the clock starts
    )
    if parts > 1:
        trainer.parts, trainer.context = parts, p.context
        trainer.model_accepts_loss_kwargs = (
            False  # the loss is a mean, of which accumulated steps take the mean
        )
    trainer.remove_callback(PrinterCallback)
    trainer.checkpoints, saving.trainer = saving, trainer
    return trainer
