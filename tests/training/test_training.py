"""Pretraining: the model, the clocks and one run; texts, resumption and comparison have files of their own."""

import json
import os
import time

import numpy as np
import pytest
import torch
from small.training import SMALL, losses

import multipole_lab as ml
from multipole_lab.environment import machine
from multipole_lab.training import PRESETS, build_model, parameter_counts
from multipole_lab.training.clocks import AttentionClock
from multipole_lab.training.presets import dry
from multipole_lab.training.run import Run, train_run


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
        ({"rate": "fast"}, "rate is 'fast'; a positive"),
        ({"clip": -1}, "clip is -1; a number of at least 0"),
        ({"decay": True}, "decay is True; a number of at least 0"),
        ({"muse_layers": 1}, "muse_layers is 1; a tuple of layers"),
        ({"muse_layers": ("a",)}, r"muse_layers is \['a'\]; the model has layers 0 to 2"),
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
