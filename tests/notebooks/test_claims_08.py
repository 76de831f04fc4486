"""What notebook 08 says about a model of one's own, computed; numbers are those of cells and exercises.

Its live cells run on the random model, whatever weights there are; what it says of SmolLM2 is computed where those are.
"""

import inspect
import json.decoder
import re
from dataclasses import replace

import pytest
import torch
from claims import Notebook, by_the_clock
from tiny_models import ids_of, tiny
from transformers import AutoModelForCausalLM

import multipole_lab as ml
from multipole_lab.bench.recorded import record
from multipole_lab.decoding.store.rope import Rotation
from multipole_lab.measure import interleaved, share_of_exact
from multipole_lab.measure.errors import per_head_error
from multipole_lab.measure.heads import first_tokens
from multipole_lab.models.samples.sample import data_folder
from multipole_lab.search.space import suggest_methods
from multipole_lab.search.tuner import folds
from multipole_lab.threads import one_thread

SMALL = {
    "muse": ml.MuSe(clusters=32, leaf=128),
    "near": ml.MuSe(clusters=32, near=2, leaf=128),
    "window": ml.Window(size=256),
    "topk": ml.TopK(keys=64),
}
HERE = ml.models.is_cached("smollm2")


@pytest.fixture(scope="module")
def book():
    """The notebook with the random model and a search that is short."""
    book = Notebook("08")
    for pattern, instead in {
        "here = .*": "here = False",
        r"ml\.tune\(sample, (.*)layers=\[15\], repeats=3\)": r"ml.tune(mine, \1layers=[1], repeats=1)",
        r"max_tokens=1024": "max_tokens=600",
        r"ml\.tune\(sample, (.*)\bfor n in \(3, 28\)": r"ml.tune(mine, \1for n in (1, 3)",
        r"ml\.compare\(sample, (.*)tokens=1024": r"ml.compare(sample, \1tokens=160",
    }.items():
        cells = [cell for cell in book.cells if re.search(pattern, cell.source)]
        assert cells, pattern
        for cell in cells:
            cell.source = re.sub(pattern, instead, cell.source)
    return book


def errors(method, causal, tokens=1024):
    """The mean over the three layers of the shipped sample."""
    return sum(by_layer(method, causal, tokens)) / 3


def by_layer(method, causal, tokens=1024):
    sample = ml.load_sample("smollm2")
    found = []
    for layer in sample.layers:
        parts = first_tokens(sample[layer], tokens)
        options = {"scale": sample.scale, "causal": causal}
        found.append(
            ml.relative_squared_error(method(*parts, **options), ml.Exact()(*parts, **options)).item()
        )
    return found


def test_12_every_row_has_an_error_and_a_time(book):
    book.says(r"every row has both: `(rse)`.*`(worst_head)`.*and `(speedup)`")
    table = book.cell("11").table
    assert table[["rse", "worst_head", "speedup"]].notna().all(axis=None)
    assert (table["worst_head"] >= table["rse"]).all()


def test_14_the_error_is_reported_on_queries_that_the_choice_has_not_seen(book):
    best = book.cell("13").best
    book.says(
        r"`best` shows what was chosen by \(`(tuned_error)`\) and what came out on the held-out "
        r"queries \(`(error)`\)"
    )
    assert best.holds in (True, False)
    if isinstance(best.method, ml.Exact):
        assert best.error == 0
    assert {"held out"} == set(best.evidence["part"])
    book.says(r"not\* seen: (a third) of all, in spans of the text between the others")
    tuned, (held,) = folds(4096)
    assert len(held) / 4096 == pytest.approx(1 / 3, abs=0.01)
    assert not set(held.tolist()) & set(torch.cat(tuned).tolist())


def test_18_a_methods_text_is_its_configuration(book):
    (same,) = re.findall(r"-> (\w+)", book.cell("18").printed)
    assert same == "True"
    assert book.cell("18").parse_method("MuSe(clusters=64, near=4)") == ml.MuSe(clusters=64, near=4)


def test_22_a_method_keeps_nothing_of_a_text(book):
    book.says(r"keeps nothing of a text: (clusters are made again) for every one")
    sample, method = ml.load_sample("smollm2"), ml.MuSe(clusters=32)
    first, second = (
        [x[:, :, at] for x in first_tokens(sample[15], 1024)] for at in (slice(512), slice(512, 1024))
    )
    before = method(*first)
    method(*second)
    assert torch.equal(method(*first), before)
    assert method == ml.MuSe(clusters=32)


def test_19_a_leaf_longer_than_the_text_is_exact(book):
    leaf, tokens = book.says(
        r"The `leaf` is 128 here\. With the default, ([\d,]+) on a CPU, these (\d+) tokens would be one leaf"
    )
    options = {"causal": True}
    for n, one in ((int(leaf), True), (int(leaf) + 1, False)):
        x = [torch.randn(1, 1, n, 8) for _ in range(3)]
        assert torch.allclose(ml.MuSe()(*x, **options), ml.Exact()(*x, **options), atol=1e-5) == one
    q, k, v = (torch.randn(1, 2, int(tokens), 8) for _ in range(3))
    same = ml.MuSe(clusters=16)(q, k, v, **options) - ml.Exact()(q, k, v, **options)
    assert same.abs().max() < 1e-5
    assert (
        ml.MuSe(clusters=16, leaf=128)(q, k, v, **options) - ml.Exact()(q, k, v, **options)
    ).abs().max() > 1e-3


def test_20_outside_the_with_the_model_is_as_it_was(book):
    ran = book.cell("20")
    with torch.no_grad():
        after = ran.model(ran.ids, labels=ran.ids).loss.item()
    assert after == ran.exact
    assert set(ran.dropped_in.approximated) == set(ran.layers)
    assert ran.approximate != ran.exact


def test_21_a_saved_model_keeps_the_settings_and_not_their_use(book, tmp_path):
    """With the block of the notebook, on the random model."""
    cell = next(cell for cell in book.cells if "**For good**" in cell.source)
    (block,) = re.findall(r"```python\n(.*?)```", cell.source, flags=re.S)
    names = {
        "model": book.cell("06").tiny(),
        "folder": tmp_path,
        "AutoModelForCausalLM": AutoModelForCausalLM,
    }
    exec(block, names)
    book.says(r"transformers loads every model with its own attention \(`(sdpa)`, and that is (exact)\)")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert plain.config._attn_implementation == "sdpa"
    assert plain.config.muse == {"clusters": 64, "near": 4, "leaf": 256}
    ids = torch.randint(256, (1, 600), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own, again, exact = (
            names[name](ids).logits if name else plain(ids).logits for name in ("model", "again", "")
        )
    assert torch.equal(own, again)
    assert not torch.equal(own, exact)


def test_exercise_1_muse_changes_most(book):
    assert book.solution(1)[0].printed.count("Window") == 2
    said = book.says(
        r"falls (\d+) times .*? \(from ([\d.]+) to ([\d.]+)\) and (\d+) times with two \(from "
        r"([\d.]+) to ([\d.]+)\)"
    )
    pairs = {name: (errors(method, False), errors(method, True)) for name, method in SMALL.items()}
    times = {name: full / causal for name, (full, causal) in pairs.items()}
    assert (round(times["muse"]), round(times["near"])) == (said[0], said[3])
    assert pairs["muse"] == pytest.approx(said[1:3], rel=0.01)
    assert pairs["near"] == pytest.approx(said[4:], rel=0.01)
    others = book.says(r"window and top-k gain by ([\d.]+) and ([\d.]+) times")
    assert (round(times["window"], 1), round(times["topk"], 1)) == others


def test_exercise_2_each_layer_gets_a_method(book):
    assert set(eval(book.solution(2)[0].printed)) == {1, 3}


@pytest.mark.slow
def test_exercise_2_no_setting_suits_layer_3_and_four_suit_layer_28(book):
    sample, settings = ml.load_sample("smollm2"), book.cell("13").settings
    best, suit = book.says(
        r"\(the best, 32 clusters with 4 near ones, has ([\d.]+)\).* in layer 28 (\w+) of them do"
    )
    found = {}
    for layer in (3, 28):
        parts = first_tokens(sample[layer], 4096)
        exact = ml.Exact()(*parts, scale=sample.scale)
        found[layer] = [
            ml.relative_squared_error(method(*parts, scale=sample.scale), exact).item() for method in settings
        ]
    assert (
        min(found[3])
        == found[3][settings.index(ml.MuSe(clusters=32, near=4))]
        == pytest.approx(best, abs=0.005)
    )
    assert sum(error <= 0.1 for error in found[28]) == suit


def test_exercise_3_the_random_model_hardly_notices(book):
    exact = book.cell("20").exact
    for _, loss in book.solution(3)[0].rows(r"(\d) ([\d.]+)"):
        assert 0 < abs(loss - exact) < 1e-3


def test_exercise_4_both_texts_have_an_error(book):
    assert [name for name, _ in book.solution(4)[0].rows(r"(story|code) ([\d.]+)")] == ["story", "code"]


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="needs the weights of SmolLM2: ml.load_model('smollm2') fetches them")
def test_exercises_3_and_4_with_the_weights(book):
    model, tokenizer = ml.load_model("smollm2")
    story = (data_folder() / "reading.txt").read_text(encoding="utf-8")
    on_story, on_code = book.says(r"weights it is ([\d.]+) on the story and ([\d.]+) on the code")
    for text, said in ((story, on_story), (inspect.getsource(json.decoder), on_code)):
        mine = ml.capture(model, tokenizer, text, layers=[3, 15, 28], max_tokens=1024)
        assert ml.compare(mine, ml.MuSe(clusters=32), repeats=1)["rse"].mean() == pytest.approx(
            said, abs=0.002
        )
    ids = torch.tensor([tokenizer(story).input_ids[:512]])
    losses = book.says(
        r"the loss is ([\d.]+) exactly, ([\d.]+) with `near=0`.*?, ([\d.]+) with 2 .*? and ([\d.]+) with 8"
    )
    with torch.no_grad():
        assert model(ids, labels=ids).loss.item() == pytest.approx(losses[0], abs=0.002)
        for near, said in zip((0, 2, 8), losses[1:], strict=True):
            with ml.MuSe(clusters=16, near=near, leaf=128, sinks=4).on(model):
                assert model(ids, labels=ids).loss.item() == pytest.approx(said, abs=0.002)


def test_16_quarters_of_one_text_differ(book):
    said = book.says(r"in layer 15 is ([\d.]+), ([\d.]+), ([\d.]+) and ([\d.]+)\.")
    layer = ml.load_sample("smollm2")[15]
    for i, error in enumerate(said):
        x = [y[:, :, 1024 * i : 1024 * (i + 1)] for y in (layer.q, layer.k, layer.v)]
        found = ml.relative_squared_error(ml.MuSe(clusters=32)(*x), ml.Exact()(*x)).item()
        assert found == pytest.approx(error, abs=0.002)


def test_61_dropout_stays_exact_and_is_counted_with_its_reason(book):
    book.says(r"They are counted with the reason in `(dropped_in\.exact)`")
    model, ids = tiny("llama", attention_dropout=0.1).train(), ids_of()
    with pytest.warns(UserWarning, match="dropout"), ml.MuSe(clusters=4, leaf=16).on(model) as dropped_in:
        model(ids)
    assert not dropped_in.approximated
    assert all("dropout" in reason for _, reason in dropped_in.exact)
    with pytest.raises(ValueError, match="dropout"), ml.MuSe(clusters=4, leaf=16).on(model, strict=True):
        model(ids)


def test_09_a_capture_is_made_after_rope_and_takes_two_bytes_a_number(book):
    numbers, bytes_, megabytes, tokens = book.says(
        r"SmolLM2 has (\d+) numbers a token and layer, so ([\d,]+) bytes, ([\d.]+) MB for ([\d,]+) "
        r"tokens of three"
    )
    layer = ml.load_sample("smollm2")[15]
    assert sum(x.shape[1] * x.shape[3] for x in (layer.q, layer.k, layer.v)) == numbers == bytes_ / 2
    assert 3 * bytes_ * tokens / 1e6 == pytest.approx(megabytes, abs=0.05)
    mine = book.cell("08").mine
    assert (mine.provenance["after_rope"], mine.provenance["stored_dtype"]) == (True, "float16")
    ids, keys = mine.token_ids.tolist(), mine[0].k[0, 0]
    first = ids.index(ids[0])
    again = ids.index(ids[0], first + 1)
    torch.testing.assert_close(mine[0].v[0, 0, first], mine[0].v[0, 0, again])  # one token, one value
    assert (keys[first] - keys[again]).norm() > 0.01 * keys[first].norm()  # at two positions, two keys


def test_exercise_3_errors_of_layers_on_the_same_text(book):
    said = book.says(r"which is the same text, it is ([\d.]+), ([\d.]+) and ([\d.]+) in the mean")
    for near, error in zip((0, 2, 8), said, strict=True):
        method = ml.MuSe(clusters=16, near=near, leaf=128, sinks=4)
        assert errors(method, causal=True, tokens=512) == pytest.approx(error, abs=1e-4)
    worst = book.says(r"in the mean, and ([\d.]+), ([\d.]+) and ([\d.]+) in the worst of the three")
    for near, error in zip((0, 2, 8), worst, strict=True):
        method = ml.MuSe(clusters=16, near=near, leaf=128, sinks=4)
        assert max(by_layer(method, causal=True, tokens=512)) == pytest.approx(error, abs=1e-4)
    assert max(worst) < 0.01
    book.says(r"\(The other (27) layers are not in the sample\.\)")


def test_09_capture_replaces_the_attention_function_for_one_reading(book):
    book.says(r"it is (replaced) by one that keeps the three and then does what the model's own does")
    ran = book.cell("08")
    calls = []

    class Counted(ran.Bytes):
        def __call__(self, text, **_):
            calls.append(text)
            return super().__call__(text)

    before = ran.model.config._attn_implementation
    kept = ml.capture(ran.model, Counted(), ran.text, layers=[0], max_tokens=64)
    assert len(calls) == 1
    assert ran.model.config._attn_implementation == before
    ids = torch.tensor([kept.token_ids.tolist()])
    hidden = ran.model.model.layers[0].input_layernorm(ran.model.model.embed_tokens(ids))
    values = ran.model.model.layers[0].self_attn.v_proj(hidden).reshape(1, 64, 2, -1).transpose(1, 2)
    torch.testing.assert_close(kept[0].v, values, rtol=1e-2, atol=1e-3)
    three, nine = book.says(r"so there are fewer of those: (\w+) for (\w+) in SmolLM2")
    layer = ml.load_sample("smollm2")[15]
    assert (layer.k.shape[1], layer.q.shape[1]) == (three, nine)


def test_10_top_k_is_slower_and_two_near_clusters_take_about_as_long(book):
    book.says(r"(top-k) is slower always, for it computes every logit and sorts")
    book.says(r"(Two near clusters) take the time of exact attention there to within a factor of two")
    methods = [ml.TopK(keys=64), ml.MuSe(clusters=32, near=2)]
    sample = ml.load_sample("smollm2").crop(1024)
    with one_thread():
        by_the_clock(
            lambda: ml.compare(sample, methods, layers=[15], repeats=5)["speedup"].tolist(),
            lambda found: found[0] < 0.6 and 0.5 < found[1] < 2,  # the second 0.9 to 1.3 on the CPUs tried
        )


def test_10_how_a_time_is_taken(book):
    (turns,) = book.says(
        r"called once untimed; then all take turns, (three) times each \(`repeats`\), and the median"
    )
    assert inspect.signature(ml.compare).parameters["repeats"].default == turns
    calls = []
    interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert calls == ["a", "b"] * 3  # one round untimed


def test_21_what_attention_can_save_at_most(book):
    short, long, first, last = book.says(
        r"\$f\$ is (\d+%) at 16,384 tokens and (\d+%) at 65,536: ([\d.]+) and ([\d.]+) times at most"
    )
    assert (round(1 / (1 - short), 1), round(1 / (1 - long), 1)) == (first, last)
    other = Notebook("09")
    assert other.says(r"attention is (\d+%) of a step at 16,384 tokens") == (short,)
    assert other.says(r"Four times the length\*\*: attention is (\d+%) of a step") == (long,)


def test_12_how_the_table_reads(book):
    *said, window = book.says(
        r"top-k has the least error here, ([\d.]+), then two near clusters with ([\d.]+), none with "
        r"([\d.]+), and the "
        r"window with ([\d.]+)\."
    )
    said.append(window)
    methods = [ml.TopK(keys=64), ml.MuSe(clusters=32, near=2), ml.MuSe(clusters=32), ml.Window(size=256)]
    table = ml.compare(ml.load_sample("smollm2").crop(1024), methods, repeats=1)
    found = table.groupby("method", sort=False)[["rse", "worst_head"]].mean()
    assert found["rse"].tolist() == pytest.approx(said, abs=0.001)
    assert said == sorted(said)
    mean, *worst, together, best_head, best_layer, best = book.says(
        r"Without near clusters the mean is ([\d.]+), and the worst heads have ([\d.]+) \(head (\d) "
        r"of layer (\d+)\), "
        r"([\d.]+) \(head (\d) of layer (\d+)\) and ([\d.]+) \(head (\d) of layer (\d+)\): "
        r"`worst_head` above is the "
        r"mean of the three, ([\d.]+)\. The best one, head (\d) of layer (\d+), has ([\d.]+)\."
    )
    assert mean == said[2]
    heads = {layer: errors_by_head(int(layer)) for layer in (3, 15, 28)}
    for error, head, layer in zip(worst[::3], worst[1::3], worst[2::3], strict=True):
        assert (heads[layer].argmax(), heads[layer].max()) == (head, pytest.approx(error, abs=5e-4))
    assert found["worst_head"].iloc[2] == pytest.approx(together, abs=0.005)
    assert sum(x.max().item() for x in heads.values()) / 3 == pytest.approx(together, abs=0.005)
    assert min(heads, key=lambda layer: heads[layer].min()) == best_layer
    assert (heads[best_layer].argmin(), heads[best_layer].min()) == (best_head, pytest.approx(best, abs=5e-4))


def errors_by_head(layer, tokens=1024, **settings):
    """Of MuSe with 32 clusters, in full attention."""
    sample = ml.load_sample("smollm2")
    x, scale = first_tokens(sample[layer], tokens), sample.scale
    return per_head_error(ml.MuSe(clusters=32, **settings)(*x, scale=scale), ml.Exact()(*x, scale=scale))[0]


def test_02_another_denominator_is_another_error(book):
    layer, tokens, mean, pooled, queries = book.says(
        r"in layer (\d) of the shipped sample \(([\d,]+) tokens\) it is ([\d.]+) so, ([\d.]+) with "
        r"the sums over all heads "
        r"in one fraction, .*?, and ([\d.]+) as the mean of every query's own fraction"
    )
    sample = ml.load_sample("smollm2")
    x, scale = first_tokens(sample[int(layer)], int(tokens)), sample.scale
    exact, ours = ml.Exact()(*x, scale=scale), ml.MuSe(clusters=32)(*x, scale=scale)
    wrong, size = (ours - exact).square().sum(-1), exact.square().sum(-1)
    assert ml.relative_squared_error(ours, exact).item() == pytest.approx(mean, abs=5e-4)
    assert (wrong.sum((0, 2)) / size.sum((0, 2))).mean().item() == pytest.approx(mean, abs=5e-4)
    assert (wrong.sum() / size.sum()).item() == pytest.approx(pooled, abs=5e-4)
    assert (wrong / size).mean().item() == pytest.approx(queries, abs=5e-4)
    book.says(r"own fraction, where each query counts (alike)")
    louder = torch.ones_like(size)
    louder[:, :, 0] = 1e4  # one query of a hundred times the length
    assert (louder * wrong / (louder * size)).mean().item() == pytest.approx(queries, abs=5e-4)
    assert ((louder * wrong).sum() / (louder * size).sum()).item() != pytest.approx(pooled, abs=0.01)


def test_62_rope_lets_a_logit_see_the_distance_only(book):
    theta, first, pairs, last = book.says(
        r"SmolLM2 \(\$\\theta = ([\d{},]+)\$\) turns its first pair once around in (\d) tokens, and "
        r"the last of its (\d+) in "
        r"([\d,]+)\."
    )
    theta = float(re.sub("[{},]", "", theta))
    sample = ml.load_sample("smollm2")
    half = sample[15].k.shape[-1] // 2
    assert half == pairs
    frequencies = theta ** -(torch.arange(half) / half).double()
    around = 2 * torch.pi / frequencies
    assert (round(around[0].item()), round(around[-1].item())) == (first, last)
    turn = Rotation(frequencies.float())
    q, k = sample[15].q[:, :1, 5:6], sample[15].k[:, :1, 7:8]
    at = torch.tensor
    one = (turn.rotate(q, at([40])) * turn.rotate(k, at([25]))).sum()
    same = (q * turn.rotate(k, at([25 - 40]))).sum()
    torch.testing.assert_close(one, same, rtol=1e-3, atol=1e-3)
    slow, fast = (turn.rotate(k, at([50])) - k).view(2, half).square().sum(0)[[half - 1, 0]]
    assert slow < 1e-4 < fast
    book.says(r"(three) times a layer, not nine")
    assert (sample[15].k.shape[1], sample[15].q.shape[1]) == (3, 9)


def test_65_sharp_heads_are_hard(book):
    low, high, least, most, first, second, small, larger, heads, correlation = book.says(
        r"Heads 0 to 2 of layer 3 attend to (\d+) to (\d+) keys in effect and have errors of "
        r"([\d.]+) to ([\d.]+): .*? "
        r"Heads 5 and 6 attend to (\d+) and (\d+) and have ([\d.]+) and ([\d.]+): .*? Over the "
        r"(\d+) heads the rank "
        r"correlation of the two numbers is (-[\d.]+)\."
    )
    printed = book.cell("64").printed
    table = {
        name: torch.tensor([[float(x) for x in row.split()] for row in re.findall(rf"{name} +(.*)", printed)])
        for name in ("error", "keys")
    }
    assert table["error"].shape == table["keys"].shape == (3, 9)
    assert table["error"].numel() == heads
    exact = torch.stack([errors_by_head(layer) for layer in (3, 15, 28)])
    torch.testing.assert_close(table["error"].double(), exact, rtol=0, atol=0.0051)
    sharp, spread = table["keys"][0, :3], table["keys"][0, 5:7]
    assert (sharp.min(), sharp.max(), *spread) == (low, high, first, second)
    assert (exact[0, :3].min(), exact[0, :3].max()) == pytest.approx((least, most), abs=5e-4)
    assert exact[0, 5:7].tolist() == pytest.approx([small, larger], abs=5e-4)
    ran = book.cell("64")
    assert ran.share.shape == (1, 9, 1024, 1024)
    places = [x.flatten().argsort().argsort().double() for x in (exact, entropies())]
    assert torch.corrcoef(torch.stack(places))[0, 1].item() == pytest.approx(correlation, abs=0.005)
    on_first, after, before, on_other, stays = book.says(
        r"with `sinks=4` head 0 of layer 28 \((\d+%) on that token\) has ([\d.]+) instead of "
        r"([\d.]+)\. Head 7 of layer 15 "
        r"\((\d+%)\) stays at ([\d.]+), for its other keys are few"
    )
    for layer, head, share in ((28, 0, on_first), (15, 7, on_other)):
        assert weights(layer)[head, :, 0].mean().item() == pytest.approx(share, abs=0.005)
    assert exact[2, 0] == pytest.approx(before, abs=0.005)
    assert errors_by_head(28, sinks=4)[0] == pytest.approx(after, abs=0.005)
    assert errors_by_head(15, sinks=4)[7] == pytest.approx(stays, abs=0.005)
    assert entropies()[1, 7] < entropies().median() / 2


def weights(layer):
    """Of full attention over 1,024 tokens, [9, 1024, 1024]."""
    sample = ml.load_sample("smollm2")
    q, k, _ = first_tokens(sample[layer], 1024)
    return (sample.scale * q[0] @ k[0].repeat_interleave(3, 0).mT).softmax(-1)


def entropies():
    """Keys in effect of the nine heads of three layers: e to the mean entropy of their queries."""
    found = [weights(layer) for layer in (3, 15, 28)]
    return torch.stack([-torch.xlogy(x, x).sum(-1).mean(-1) for x in found]).exp()


def test_16_what_tuning_gains_over_the_default(book):
    default, cost, more, most, share, clusters, middle = book.says(
        r"`MuSe\(\)` has ([\d.]+) with (\d+%) of exact attention's products in this layer, the two have (\d+%) "
        r"and (\d+%) of them\. .*? "
        r"No: with (\d+%), (\d+) clusters and none near have ([\d.]+)\."
    )
    two = book.says(r"with another seed, it is ([\d.]+) and ([\d.]+), and ([\d.]+) by default")
    sample = ml.load_sample("smollm2")
    x, scale = first_tokens(sample[15], 4096), sample.scale
    exact, (held,) = ml.Exact()(*x, scale=scale), folds(4096)[1]

    def error(method, at=slice(None)):
        return ml.relative_squared_error(method(*x, scale=scale)[:, :, at], exact[:, :, at]).item()

    def products(method):
        return share_of_exact(method, 4096, heads=9, kv_heads=3)

    plain, many = ml.MuSe(), ml.MuSe(clusters=int(clusters))
    chosen = ml.MuSe(clusters=64, near=4), ml.MuSe(clusters=32, near=4)
    assert (error(plain), error(many)) == pytest.approx((default, middle), abs=0.001)
    rates = [products(method) for method in (plain, *chosen, many)]
    assert rates == pytest.approx([cost, more, most, share], abs=0.005)
    found = [error(replace(method, seed=1), held) for method in (*chosen, plain)]
    assert found == pytest.approx(list(two), abs=0.001)


def test_21_a_loss_may_fall_while_every_layer_changes_the_predictions(book):
    tokens, fall, layers = book.says(
        r"one layer replaced at a time \(`MuSe\(near=4\)`, ([\d,]+) tokens of a novel\): every "
        r"layer changes the predictions, "
        r"and in (\d+) of (\d+) the loss \*falls\*"
    )
    found = record("h200-layers-novel-035")
    assert f"--max-tokens {int(tokens)} " in found["command"]
    assert "persuasion.txt" in found["command"]
    rows = [row for row in found["rows"] if row["method"] == "MuSe(clusters=64, near=4)"]
    assert sorted(row["layer"] for row in rows) == list(range(int(layers)))
    assert all(row["kl"] > 0 for row in rows)
    assert sum(row["above"] < 0 for row in rows) == fall
    assert book.says(r"Exercise 3 has errors below one percent and a loss ([\d.]+%) higher") == book.says(
        r"2\.8755 with `near=0` \(([\d.]+%) more\)"
    )


def test_12_what_tune_looks_through(book):
    full, length, causal, low, high, least, most = book.says(
        r"(\d+) for ([\d,]+) tokens in full attention and (\d+) in causal: (\d+) to (\d+) clusters, "
        r"(\d+) to (\d+) of "
        r"them near, by k-means, balanced or runs, monopole or dipole, and windows"
    )
    methods = suggest_methods(int(length))
    assert (len(methods), len(suggest_methods(int(length), causal=True))) == (full, causal)
    muse = [method for method in methods if isinstance(method, ml.MuSe)]
    assert {method.partition for method in muse} == {"kmeans", "balanced", "runs"}
    assert {method.order for method in muse} == {"monopole", "dipole"}
    assert any(isinstance(method, ml.Window) for method in methods)
    clusters, near = [method.clusters for method in muse], [method.near for method in muse]
    assert (min(clusters), max(clusters), min(near), max(near)) == (low, high, least, most)


def test_16_two_of_six_settings_keep_the_error(book):
    count, allowed, many, few, dipole, window = book.says(
        r"(\w+) of our six keep to ([\d.]+), 64 clusters with 4 near ones \(([\d.]+)\) and 32 with "
        r"4 \(([\d.]+)\)\. "
        r"A dipole without near clusters has ([\d.]+), the window ([\d.]+)\."
    )
    sample, settings = ml.load_sample("smollm2"), book.cell("13").settings
    x, scale = first_tokens(sample[15], 4096), sample.scale
    exact = ml.Exact()(*x, scale=scale)
    found = [ml.relative_squared_error(method(*x, scale=scale), exact).item() for method in settings]
    assert len(found) == 6
    assert sum(error <= allowed for error in found) == count
    assert [found[3], found[1], found[4], found[5]] == pytest.approx([many, few, dipole, window], abs=0.001)


def test_19_the_call_takes_what_torch_takes(book):
    book.says(r"`(out = method\(q, k, v, causal=True\))`")
    q, k, v = (torch.randn(1, 2, 300, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    for scale in (None, 0.5):
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        torch.testing.assert_close(ml.MuSe(leaf=512)(q, k, v, causal=True, scale=scale), out)
