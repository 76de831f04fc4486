"""Pretraining: the model, the text, the clocks, one run and its resumption; comparing is in test_training_compare."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

import multipole_lab as ml
from multipole_lab.environment import machine
from multipole_lab.training import PRESETS, Corpus, Preset, build_model, parameter_counts
from multipole_lab.training.checkpoints import checkpoints
from multipole_lab.training.clocks import AttentionClock
from multipole_lab.training.journal import Journal
from multipole_lab.training.presets import dry
from multipole_lab.training.run import Run, train_run
from multipole_lab.training.texts import preparation as preparing
from multipole_lab.training.texts.corpus import Sequences
from multipole_lab.training.texts.preparation import prepare_corpus
from multipole_lab.training.texts.sources import documents, is_heldout

SMALL = Preset(
    layers=3, width=16, heads=1, mlp=16, vocab=300, context=64, batch=2, steps=6, warmup=2, every=2,
    heldout_blocks=2, method="MuSe(clusters=4, leaf=16)", megabytes=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Sixty documents, each of one word that no other has; and what is no text."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "deep").mkdir()
    for i in range(60):
        (folder / "deep" / f"{i}.txt").write_text(f"word{i:02d} is here, été {i * i} " * 40, encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG\0" + bytes(1000))
    (folder / "latin.txt").write_bytes("été ".encode("latin-1") * 100)
    (folder / ".hidden").write_text("hidden " * 100)
    return folder


@pytest.fixture(scope="module")
def corpus(text, tmp_path_factory) -> Corpus:
    return prepare_corpus(
        str(text), 300, None, folder=tmp_path_factory.mktemp("made"), say=lambda words: None
    )


def losses(rows: list[dict]) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


# --- the model ------------------------------------------------------------------------------------


def test_paper_model_has_thirty_million_parameters():
    with torch.device("meta"):
        model = build_model(PRESETS["paper"])
    c, counts = model.config, parameter_counts(model)
    assert (c.num_hidden_layers, c.hidden_size, c.num_attention_heads) == (7, 512, 8)
    assert c.max_position_embeddings == 16_384
    assert 29e6 < counts["total"] < 31e6
    assert (
        counts["total"] == sum(n for kind, n in counts.items() if kind != "total") == model.num_parameters()
    )
    assert counts["attention"] == 7 * 4 * 512**2
    assert PRESETS["paper"].muse_layers == (3,)  # the central one


def test_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    one, same, other = (build_model(SMALL, seed=seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width": 15}, "width is 15 and heads 1"),
        ({"layers": 0}, "layers is 0; a positive integer"),
        ({"muse_layers": (3,)}, r"muse_layers is \[3\]; the model has layers 0 to 2"),
        ({"muse_layers": ()}, "muse_layers is"),
        ({"warmup": 7}, "warmup is 7; 0 to steps = 6"),
        ({"precision": "fp8"}, "precision is 'fp8'; allowed are 'no', 'bf16', 'fp16'"),
        ({"vocab": 100}, "vocab is 100; at least 300"),
        ({"rate": 0.0}, "rate is 0.0; a positive"),
        ({"megabytes": -1}, "megabytes is -1"),
        ({"depth": 3}, "depth: no such setting"),
    ],
)
def test_preset_refuses(changes, says):
    with pytest.raises(ValueError, match=says):
        SMALL.replace(**changes)


def test_short_run_warms_up_for_a_tenth():
    assert PRESETS["tiny"].replace(steps=50).warmup == 5
    assert PRESETS["tiny"].replace(steps=50, warmup=20).warmup == 20


def test_dry_run_keeps_layers_context_and_method():
    small, paper = dry(PRESETS["paper"]), PRESETS["paper"]
    assert (small.layers, small.context, small.method) == (paper.layers, paper.context, paper.method)
    assert small.steps == 2
    assert small.width < paper.width / 4


# --- the text -------------------------------------------------------------------------------------


def test_tokens_give_the_text_back_and_splits_share_no_document(corpus, text):
    end = corpus.tokenizer.eos_token
    whole = {path.read_text(encoding="utf-8") for path in (text / "deep").iterdir()}
    found = {}
    for split in ("train", "heldout"):
        row = corpus.tokenizer.decode(corpus.tokens(split).tolist())
        found[split] = row.split(end)[:-1]
        count = corpus.record["splits"][split]
        assert len(found[split]) == count["documents"] > 0
        assert len(corpus.tokens(split)) == count["tokens"]
    assert set(found["train"]) | set(found["heldout"]) == whole
    assert not set(found["train"]) & set(found["heldout"])
    assert corpus.tokens("train").dtype == np.uint16


def test_one_document_in_twenty_is_held_out():
    share = np.mean([is_heldout(f"file{i}.txt", 0) for i in range(4000)])
    assert 0.04 < share < 0.06
    assert is_heldout("a", 0) == is_heldout("a", 0)


def test_prepared_text_is_opened_again_and_changed_text_is_not(text, tmp_path, corpus):
    said = []
    first = prepare_corpus(str(text), 300, None, folder=tmp_path, say=said.append)
    made = len(said)
    assert made > 0
    assert prepare_corpus(str(text), 300, None, folder=tmp_path, say=said.append) == first
    assert len(said) == made
    assert first.record["text_sha256"] == corpus.record["text_sha256"]  # the same text gives the same tokens
    assert np.array_equal(first.tokens("train"), corpus.tokens("train"))
    (text / "late.txt").write_text("a late document " * 100)
    try:
        other = prepare_corpus(str(text), 300, None, folder=tmp_path, say=said.append)
    finally:
        (text / "late.txt").unlink()
    assert other.folder != first.folder


def test_interrupted_preparation_leaves_nothing_behind(text, tmp_path, monkeypatch):
    def interrupted(name, seed):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "is_heldout", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_corpus(str(text), 300, None, folder=tmp_path, say=lambda words: None)
    assert list(tmp_path.iterdir()) == []
    assert (
        prepare_corpus(str(text), 300, None, folder=tmp_path, say=lambda words: None).blocks("train", 64) > 0
    )


def test_text_that_is_not_there_or_too_little_is_refused(tmp_path, corpus):
    with pytest.raises(ValueError, match="nowhere', which is no folder; allowed are 'python', 'pg19'"):
        next(documents(str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="there is no text file"):
        list(documents(str(tmp_path)))
    (tmp_path / "one.txt").write_text("one document " * 100)
    with pytest.raises(ValueError, match="no document fell to the"):
        prepare_corpus(str(tmp_path), 300, folder=tmp_path / "made", say=lambda words: None)
    with pytest.raises(ValueError, match=r"context is 1,000,000, but the heldout text has"):
        corpus.blocks("heldout", 1_000_000)
    with pytest.raises(FileNotFoundError, match=r"holds no corpus\.json"):
        Corpus.open(tmp_path)


def test_python_text_has_code_and_prose_in_one_order():
    names = [name for name, _ in documents("python", megabytes=1)]
    assert names == [name for name, _ in documents("python", megabytes=1)]
    assert any(name.startswith("topic/") for name in names)
    assert any(name.endswith(".py") for name in names)
    assert not any("site-packages" in name for name in names)


def test_pg19_streams(monkeypatch):
    asked = []

    def load_dataset(name, split, streaming):
        asked.append((name, split, streaming))
        for i in range(3):
            yield {"short_book_title": f"Book {i}", "publication_date": 1800 + i, "text": f"{split} " * 100}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    names = [name for name, _ in documents("pg19")]
    assert len(set(names)) == 9
    assert all(streaming for _, _, streaming in asked)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="pip install datasets"):
        next(documents("pg19"))


def test_every_pass_over_the_text_is_another_permutation(corpus):
    n = corpus.blocks("train", 64)
    data = Sequences(corpus, "train", 64, 3 * n, seed=1)
    order = [data.block(i) for i in range(3 * n)]
    for turn in range(3):
        assert sorted(order[turn * n : (turn + 1) * n]) == list(range(n))
    assert order[:n] != order[n : 2 * n]
    again = Sequences(corpus, "train", 64, 3 * n, seed=1)
    assert again.block(2 * n + 1) == order[2 * n + 1]  # asked for out of order, as on resumption
    assert [Sequences(corpus, "train", 64, n, seed=2).block(i) for i in range(n)] != order[:n]
    first = order[0] * 64
    assert np.array_equal(data[0]["input_ids"].numpy(), corpus.tokens("train")[first : first + 64])


# --- the clocks -----------------------------------------------------------------------------------


class Slow(torch.autograd.Function):
    """Twenty milliseconds forward, forty backward."""

    @staticmethod
    def forward(ctx, x):
        time.sleep(0.02)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        time.sleep(0.04)
        return grad


def test_attention_clock_counts_forward_and_backward_of_every_layer():
    model = build_model(SMALL)
    ids = torch.arange(40).view(2, 20)
    model(ids, labels=ids).loss.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()

    clock, former_layers = AttentionClock(), []

    def slow(former, module, *args, **kwargs):
        out, weights = former(module, *args, **kwargs)
        former_layers.append(module.layer_idx)
        return (Slow.apply(out) if module.layer_idx == 1 else out), weights

    from multipole_lab.interface.functions import hooked

    with hooked(model, slow), clock.on(model):
        model(ids, labels=ids).loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=0)
    ms = clock.take()
    assert sorted(ms) == sorted(former_layers) == [0, 1, 2]
    assert ms[1] > 60
    assert min(ms.values()) > 0
    assert ms[1] > ms[0] + 40
    assert clock.take() == {0: 0.0, 1: 0.0, 2: 0.0}
    with clock.on(model), torch.no_grad():
        model.eval()(ids)
    assert clock.take() == {0: 0.0, 1: 0.0, 2: 0.0}  # evaluation is not training


# --- a run ----------------------------------------------------------------------------------------


def test_run_learns_logs_and_saves_without_pickle(corpus, tmp_path):
    preset = SMALL.replace(steps=12, every=6, rate=1e-2)
    rows = train_run(Run(preset, corpus, preset.method, 0, "cpu", tmp_path))
    loss = losses(rows)
    assert list(loss) == list(range(1, 13))
    assert loss[12] < loss[1] - 0.2
    assert [row["step"] for row in rows if "heldout_loss" in row] == [6, 12]
    row = rows[3]
    assert 0 < row["attention_seconds"] < row["seconds"]
    assert row["tokens_per_second"] == pytest.approx(128 / row["seconds"])
    assert set(row["attention_by_layer"]) == {"0", "1", "2"}
    saved = list(tmp_path.rglob("checkpoint-12/*"))
    assert {path.suffix for path in saved} == {".json", ".safetensors"}
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".pth", ".bin", ".pkl")]

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-12")
    ids = torch.from_numpy(corpus.tokens("heldout")[:64].astype(np.int64))[None]
    with torch.no_grad():
        exact = model(ids).logits
        model.set_attn_implementation("muse")  # its configuration was saved with it
        muse = model(ids).logits
        with ml.MuSe(clusters=4, leaf=16).on(model, layers=[1]):
            expected = model(ids).logits
    assert model.config.muse["layers"] == [1]
    assert torch.equal(muse, expected)
    assert 0 < (muse - exact).abs().max() < 0.5


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training import SMALL
from multipole_lab.training import Corpus
from multipole_lab.training.run import Run, train_run

def show(row):
    if row["step"] == 5:
        os.kill(os.getpid(), signal.SIGKILL)

train_run(Run(SMALL, Corpus.open({corpus!r}), {method!r}, 3, "cpu", Path({folder!r})), show=show)
"""


@pytest.mark.parametrize("method", [None, SMALL.method], ids=["exact", "muse"])
def test_killed_run_goes_on_with_the_same_losses(method, corpus, tmp_path):
    whole = train_run(Run(SMALL, corpus, method, 3, "cpu", tmp_path / "whole"))
    folder = tmp_path / "killed"
    code = KILLED.format(
        tests=str(Path(__file__).parent), corpus=str(corpus.folder), method=method, folder=str(folder)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (folder / "log.jsonl").open("a").write('{"step": 6, "lo')  # and the last line was cut off
    (folder / ".checkpoint-6").mkdir()  # and a checkpoint was not whole
    resumed = train_run(Run(SMALL, corpus, method, 3, "cpu", folder))
    assert [row["step"] for row in resumed] == [row["step"] for row in whole]
    assert losses(resumed) == losses(whole)  # to the last bit
    looks = [[row["heldout_loss"] for row in rows if "heldout_loss" in row] for rows in (whole, resumed)]
    assert looks[0] == looks[1]
    weights = [
        (part / "checkpoint-6" / "model.safetensors").read_bytes() for part in (tmp_path / "whole", folder)
    ]
    assert weights[0] == weights[1]


class OtherDraws(TrainerCallback):
    """Before every step the global generators are somewhere else."""

    def on_step_begin(self, args, state, control, **kwargs):
        for draw_from in (random.seed, np.random.seed, torch.manual_seed):
            draw_from(1000 + state.global_step)


@pytest.mark.parametrize("method", [None, SMALL.method], ids=["exact", "muse"])
def test_a_resumed_run_needs_no_random_state(method, corpus, tmp_path):
    whole = train_run(Run(SMALL, corpus, method, 3, "cpu", tmp_path / "whole"))
    run = Run(SMALL, corpus, method, 3, "cpu", tmp_path / "resumed")
    begun = train_run(run, stop=lambda step: step == 3)
    assert begun[-1]["step"] == 3
    resumed = train_run(run, callbacks=[OtherDraws()])
    assert losses(resumed) == losses(whole)  # to the last bit
    assert resumed[-1]["heldout_loss"] == whole[-1]["heldout_loss"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_goes_on(corpus, tmp_path):
    """Every file of the last checkpoint in turn: cut off, then missing."""
    rows = train_run(Run(SMALL, corpus, None, 3, "cpu", tmp_path / "run"))
    before, last = checkpoints(tmp_path / "run").values()
    files = sorted(path for path in last.iterdir() if path.suffix in (".json", ".safetensors"))
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.warns(UserWarning, match=rf"{last.name} is left out.*{path.name} is damaged"):
            assert list(checkpoints(tmp_path / "run").values()) == [before]
        path.write_bytes(content)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        content = (last / name).read_bytes()
        (last / name).unlink()
        with pytest.warns(UserWarning, match=f"{name} is missing"):
            assert list(checkpoints(tmp_path / "run").values()) == [before]
        (last / name).write_bytes(content)
    assert list(checkpoints(tmp_path / "run").values()) == [before, last]
    os.truncate(last / "optimizer.safetensors", 1000)
    with pytest.warns(UserWarning, match=r"optimizer\.safetensors is damaged"):
        assert losses(train_run(Run(SMALL, corpus, None, 3, "cpu", tmp_path / "run"))) == losses(rows)
    for path in (before, last):
        os.truncate(path / "model.safetensors", 1000)
    with pytest.raises(
        ValueError, match=r"no checkpoint of .* is whole: .*model\.safetensors is damaged.*--restart"
    ):
        train_run(Run(SMALL, corpus, None, 3, "cpu", tmp_path / "run"))
    assert before.is_dir()
    assert last.is_dir()
    assert losses(Journal(tmp_path / "run").rows()) == losses(rows)  # nothing was lost


def test_finished_run_is_not_trained_again_and_another_is_refused(corpus, tmp_path):
    preset = SMALL.replace(steps=2)
    run = Run(preset, corpus, None, 0, "cpu", tmp_path)
    rows = train_run(run)
    assert train_run(run) == rows
    with pytest.raises(ValueError, match=r"other settings \(rate: 0.003 there, 0.1 now\).*--restart"):
        train_run(Run(preset.replace(rate=0.1), corpus, None, 0, "cpu", tmp_path))


def test_accumulated_steps_equal_larger_batches(corpus, tmp_path):
    one = train_run(Run(SMALL.replace(steps=3, batch=4), corpus, None, 0, "cpu", tmp_path / "one"))
    two = train_run(
        Run(SMALL.replace(steps=3, batch=2, accumulate=2), corpus, None, 0, "cpu", tmp_path / "two")
    )
    for step, loss in losses(one).items():
        assert losses(two)[step] == pytest.approx(loss, abs=1e-5)


def test_bfloat16_learns_too(corpus, tmp_path):
    preset = SMALL.replace(precision="bf16", steps=4, rate=1e-2)
    rows = train_run(Run(preset, corpus, preset.method, 0, "cpu", tmp_path))
    full = train_run(Run(preset.replace(precision="no"), corpus, preset.method, 0, "cpu", tmp_path / "full"))
    half, full = losses(rows), losses(full)
    assert half[4] < half[1]
    assert half[4] == pytest.approx(full[4], abs=0.05)
    assert half != full
    saved = json.loads((tmp_path / "checkpoint-4" / "config.json").read_text())
    assert saved["dtype"] == "float32"


def test_tests_leave_no_process_group():
    assert "RANK" not in os.environ
    assert not torch.distributed.is_initialized()


# --- compiled, and looked at ----------------------------------------------------------------------


def test_compiled_parts_keep_names_loss_and_gradients():
    from multipole_lab.training.compiling import compile_parts

    ids = torch.randint(0, 300, (2, 32), generator=torch.Generator().manual_seed(0))
    plain, compiled = build_model(SMALL), build_model(SMALL)
    compile_parts(compiled, backend="aot_eager")
    assert list(plain.state_dict()) == list(compiled.state_dict())
    found = []
    for model in (plain, compiled):  # as in training: a method in a layer, and the clock around it
        with ml.MuSe(clusters=4, leaf=8).on(model, 0), AttentionClock().on(model):
            found.append(model(input_ids=ids, labels=ids).loss)
            found[-1].backward()
    torch.testing.assert_close(found[0], found[1])
    for (name, x), y in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(x.grad, y.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_profile_counts_the_steps_it_was_told_to(corpus, tmp_path):
    from multipole_lab.training.profiles.profiling import Profile

    run = Run(SMALL, corpus, None, 0, "cpu", tmp_path / "run")
    train_run(run, callbacks=[Profile(run.folder, steps=2, after=2, rows=1000)])
    table = json.loads((run.folder / "profile.json").read_text())
    (row,) = [row for row in table["operations"] if row["name"] == "aten::embedding"]
    assert row["count"] == 1  # a step
    assert table["operations_ms"] + table["idle_ms"] == pytest.approx(table["step_ms"], rel=1e-3)
    assert (table["device"], table["dtype"]) == (machine("cpu"), "float32")
    assert (table["rank"], table["processes"]) == (0, 1)
    ((begin, end),) = table["lanes"]["step"]
    assert begin == 0 < end < 2 * table["step_ms"]
    assert set(table["lanes"]) == {"step", "compute"}
    assert all(0 <= a < b <= end for a, b in table["lanes"]["compute"])
