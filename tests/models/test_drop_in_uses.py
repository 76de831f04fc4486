"""What is done with a model that has a method inside: decoding, training, compiling, copying, capturing."""

import copy
from contextlib import nullcontext

import pytest
import torch
from tiny_models import (
    DECODERS,
    SMALL,
    close,
    differ,
    ids_of,
    read,
    tiny,
)
from transformers import (
    DynamicCache,
    StaticCache,
)

import multipole_lab as ml
from multipole_lab.models import capture


@pytest.mark.parametrize("implementation", ["dynamic", "static"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoding_from_a_cache(name, implementation):
    """A prompt, two tokens at once, one token: the queries are the last positions."""
    model, ids = tiny(name), ids_of(2, 50)
    steps = ids.split([40, 2, 1, 7], 1)

    def run():
        config = model.config
        cache = (
            DynamicCache(config=config)
            if implementation == "dynamic"
            else StaticCache(config, max_cache_len=64)
        )
        return torch.cat([read(model, part, past_key_values=cache) for part in steps], 1)

    expected = run()
    with ml.Exact().on(model) as drop_in:
        close(run(), expected)
    assert drop_in.approximated[1] == 4
    with ml.Window(size=5, sinks=1).on(model):
        assert differ(run(), expected)


@pytest.mark.parametrize("cache", [None, "static"])
def test_generation_with_exact_attention_is_the_same(cache):
    model, ids = tiny("llama"), ids_of(2, 30)
    kept = torch.ones_like(ids)
    kept[0, :9] = 0
    arguments = {
        "attention_mask": kept,
        "max_new_tokens": 8,
        "do_sample": False,
        "cache_implementation": cache,
    }
    expected = model.generate(ids, **arguments)
    with ml.Exact().on(model):
        assert torch.equal(model.generate(ids, **arguments), expected)


def test_single_queries_are_exact_under_muse_and_counted():
    model, ids = tiny("llama"), ids_of(1, 30)
    with SMALL.on(model) as drop_in:
        model.generate(ids, max_new_tokens=4, do_sample=False)
    assert dict(drop_in.approximated) == {0: 1, 1: 1, 2: 1}
    assert drop_in.exact == {(i, "a single query is its own expansion point"): 3 for i in range(3)}


def test_a_clustered_cache_decodes_after_a_prompt_by_muse():
    model, ids = tiny("llama"), ids_of(1, 100)
    cache = ml.MultipoleCache(budget=16, sinks=2, recent=8, interval=8, dense_until=0)
    with cache.on(model), SMALL.on(model) as drop_in:
        read(model, ids, past_key_values=cache)
        read(model, ids[:, :1], past_key_values=cache)
    assert dict(drop_in.approximated) == {0: 1, 1: 1, 2: 1}
    assert drop_in.exact == {(i, "MultipoleCache attends for single tokens"): 1 for i in range(3)}
    assert cache.layers[0].dense_steps == 0


def test_training_without_dropout_has_gradients():
    ids = ids_of()
    for name in ("bert", "llama"):
        changes = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0} if name == "bert" else {}
        model = tiny(name, **changes).train()
        gradients = []
        for method in (None, ml.Exact(), SMALL):
            model.zero_grad()
            with method.on(model) if method else nullcontext():
                model(ids)[0].square().mean().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        close(gradients[1], gradients[0], rtol=1e-3)
        assert gradients[2].isfinite().all()
        assert (gradients[2] - gradients[0]).norm() > 1e-3 * gradients[0].norm()


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_recomputes_the_same(reentrant):
    model, ids = tiny("llama").train(), ids_of()

    def gradients(checkpointed):
        model.zero_grad()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with SMALL.on(model):
            model(ids, labels=ids, use_cache=False).loss.backward()
        model.gradient_checkpointing_disable()
        return [p.grad.clone() for p in model.parameters()]

    for plain, checkpointed in zip(gradients(False), gradients(True), strict=True):
        close(checkpointed, plain)


def test_a_compiled_model_follows_the_method():
    model, ids = tiny("llama"), ids_of(1, 48)
    methods = (ml.Window(size=4), ml.Window(size=9), SMALL)
    expected = []
    for method in methods:
        with method.on(model):
            expected.append(read(model, ids, use_cache=False))
    exact = read(model, ids, use_cache=False)
    compiled = torch.compile(model, backend="eager")
    close(read(compiled, ids, use_cache=False), exact)
    for method, wanted in zip(methods, expected, strict=True):
        with method.on(compiled):
            close(read(compiled, ids, use_cache=False), wanted)
    close(read(compiled, ids, use_cache=False), exact)


def test_a_copy_made_inside_says_what_to_do():
    model, ids = tiny("llama"), ids_of()
    exact = read(model, ids)
    with SMALL.on(model):
        copied = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="was copied inside"):
        read(copied, ids)
    copied.set_attn_implementation("sdpa")
    assert torch.equal(read(copied, ids), exact)


def test_a_replica_of_data_parallel_is_not_exact_in_silence():
    """One layer's, as nn.DataParallel makes them for a second GPU."""
    model, ids = tiny("llama"), ids_of()
    layer = model.base_model.layers[1]
    whole, replica = layer.self_attn, layer.self_attn._replicate_for_data_parallel()
    for name, part in whole.named_children():
        setattr(replica, name, part)
    with SMALL.on(model):
        approximate = read(model, ids)
        layer.self_attn = replica
        with pytest.raises(
            RuntimeError, match=r"replica made by nn\.DataParallel.* start a process for each by torchrun"
        ):
            read(model, ids)
        layer.self_attn = whole
        assert torch.equal(read(model, ids), approximate)


def test_a_capture_inside_sees_what_the_method_makes():
    class Letters:
        def __call__(self, text, **_):
            return {"input_ids": [ord(c) % 64 for c in text]}

        def decode(self, ids, **_):
            return str(ids)

    model, text = tiny("llama"), "one lamp afar " * 5
    outside = capture(model, Letters(), text, layers=[0, 2], dtype=torch.float32)
    with ml.Window(size=4).on(model):
        inside = capture(model, Letters(), text, layers=[0, 2], dtype=torch.float32)
    assert torch.equal(inside[0].k, outside[0].k)
    assert differ(inside[2].k, outside[2].k)
