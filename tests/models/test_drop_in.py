"""A method inside a model: exact ones change nothing, approximations are undone, what cannot be done is named."""

import threading

import pytest
import torch
from tiny_models import FULL, SMALL, TINY, close, differ, ids_of, read, tiny
from torch import nn
from transformers import (
    BartConfig,
    BartModel,
)

import multipole_lab as ml


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("name", TINY)
def test_exact_attention_dropped_in_changes_nothing(name, side):
    model, ids = tiny(name), ids_of()
    kept = torch.ones_like(ids)
    if side != "none":
        kept[0, slice(0, 23) if side == "left" else slice(41, None)] = 0
    expected = read(model, ids, attention_mask=kept)
    with ml.Exact().on(model) as drop_in:
        got = read(model, ids, attention_mask=kept)
    close(got[kept.bool()], expected[kept.bool()])
    local = {layer for layer, reason in drop_in.exact}
    assert sorted([*drop_in.approximated, *local]) == [0, 1, 2]
    assert (set(drop_in.approximated) == {0, 1, 2}) == (name in FULL)


@pytest.mark.parametrize("name", TINY)
def test_an_approximation_has_an_effect_and_is_undone(name):
    model, ids = tiny(name), ids_of()
    before = model.config._attn_implementation
    exact = read(model, ids)
    with SMALL.on(model):
        approximate = read(model, ids)
    assert differ(approximate, exact)
    assert model.config._attn_implementation == before
    assert torch.equal(read(model, ids), exact)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_it_is_undone_after_an_exception(name):
    model, ids = tiny(name), ids_of()
    exact = read(model, ids)
    hook = model.base_model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), SMALL.on(model):
        read(model, ids)
    hook.remove()
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(read(model, ids), exact)


def test_what_eager_attention_computed_before_stays_eager():
    model, ids = tiny("llama"), ids_of()
    model.set_attn_implementation("eager")
    exact = read(model, ids)
    with SMALL.on(model, layers=[1]) as drop_in:
        assert differ(read(model, ids), exact)
    assert dict(drop_in.approximated) == {1: 1}
    assert model.config._attn_implementation == "eager"


def test_layers_are_chosen_one_by_one():
    model, ids = tiny("llama"), ids_of()
    seen = {}
    for i, layer in enumerate(model.model.layers):
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, x, i=i: seen.update({i: x[0].clone()}))
    read(model, ids)
    exact = dict(seen)
    with ml.Window(size=4, sinks=0).on(model, layers=1):
        read(model, ids)
    assert torch.equal(seen[0], exact[0])
    assert differ(seen[1], exact[1])
    with SMALL.on(model, layers={2: ml.Window(size=4, sinks=0), 0: ml.Exact()}) as drop_in:
        read(model, ids)
    close(seen[1], exact[1])
    assert differ(seen[2], exact[2])
    assert dict(drop_in.approximated) == {0: 1, 2: 1}


def test_uses_inside_each_other_add_up():
    model, ids = tiny("llama"), ids_of()
    both = {0: ml.Window(size=4), 1: SMALL, 2: SMALL}
    with SMALL.on(model, layers=both):
        expected = read(model, ids)
    with SMALL.on(model):
        outer = read(model, ids)
        with ml.Window(size=4).on(model, layers=[0]):
            close(read(model, ids), expected)
        assert torch.equal(read(model, ids), outer)
    assert model.config._attn_implementation == "sdpa"


def test_ends_in_any_order():
    model, ids = tiny("llama"), ids_of()
    exact = read(model, ids)
    first, second = SMALL.on(model, layers=[0]), ml.Window(size=4).on(model, layers=[2])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    only_second = read(model, ids)
    second.__exit__(None, None, None)
    with ml.Window(size=4).on(model, layers=[2]):
        assert torch.equal(read(model, ids), only_second)
    assert torch.equal(read(model, ids), exact)


def test_threads_have_their_own_models():
    results, methods = {}, {"muse": SMALL, "window": ml.Window(size=4), "exact": ml.Exact()}
    models = {name: tiny("llama") for name in methods}
    inside = threading.Barrier(len(methods))

    def work(name):
        model = models[name]
        with methods[name].on(model):
            inside.wait(timeout=60)
            results[name] = read(model, ids_of())

    threads = [threading.Thread(target=work, args=(name,)) for name in methods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model = tiny("llama")
    for name, method in methods.items():
        with method.on(model):
            close(results[name], read(model, ids_of()), msg=name)


def test_a_worker_thread_uses_the_method_and_another_with_is_refused():
    """Streamed generation runs ``generate`` in a thread: it must not fall back to exact attention there."""
    model, ids, found = tiny("llama"), ids_of(), {}

    def work():
        found["out"] = read(model, ids)
        try:
            with ml.Exact().on(model):
                pass
        except RuntimeError as error:
            found["error"] = str(error)

    with SMALL.on(model):
        expected = read(model, ids)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert torch.equal(found["out"], expected)
    assert "in another thread" in found["error"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": [3]}, ValueError, "layers contains 3; LlamaForCausalLM has layers 0 to 2"),
        ({"layers": []}, ValueError, "layers is empty"),
        ({"layers": ["first"]}, TypeError, "integers are needed"),
        ({"layers": {0: "muse"}}, TypeError, r"layers\[0\] is 'muse'; an attention method"),
        ({"layers": {7: ml.Exact()}}, ValueError, "layers contains 7"),
        ({"model": nn.Linear(2, 2)}, TypeError, "model is a Linear"),
    ],
)
def test_bad_input_is_named_on_entry(arguments, error, message):
    with pytest.raises(error, match=message):
        SMALL.on(**{"model": tiny("llama"), **arguments}).__enter__()


def test_an_encoder_with_a_decoder_is_refused_and_its_encoder_taken():
    sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 64}
    heads = {
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
    }
    model = BartModel(BartConfig(**sizes, **heads)).eval()
    with pytest.raises(ValueError, match="an encoder and a decoder; give one of the two"):
        SMALL.on(model).__enter__()
    ids = ids_of()
    exact = read(model.get_encoder(), ids)
    with ml.Exact().on(model.get_encoder()) as drop_in:
        close(read(model.get_encoder(), ids), exact)
        read(model, ids)  # the decoder, which shares the configuration, stays as it was
    assert dict(drop_in.approximated) == {0: 2, 1: 2}


def test_a_model_without_the_attention_interface_is_named():
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=64)).eval()
    with pytest.raises(
        ValueError, match="BloomForCausalLM does not go through transformers' attention interface"
    ):
        SMALL.on(model).__enter__()
