"""What a model is asked for beside attention: weights, packed texts, masks of its own, dropout; with every method."""

import contextlib
import warnings

import pytest
import torch
from tiny_models import DECODERS, SMALL, TINY, close, ids_of, read, tiny
from transformers import FNetConfig, FNetModel, GPT2Config, GPT2LMHeadModel, Lfm2Config, Lfm2ForCausalLM

import multipole_lab as ml
from multipole_lab.interface.masks import structure_of
from multipole_lab.models import capture
from multipole_lab.models.drop_in_names import NAMES, configure_attention

METHODS = [
    SMALL,
    ml.Centroid(clusters=8, leaf=16),
    ml.Window(size=5),
    ml.TopK(keys=4),
    ml.Exact(),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def test_these_are_all_methods():
    assert {type(method) for method in METHODS} == set(NAMES.values())


# --- attention weights and other outputs ----------------------------------------------------------


@pytest.mark.parametrize("by", ["argument", "configuration"])
@pytest.mark.parametrize("name", TINY)
@every_method
def test_attention_weights_are_eager_ones_or_refused_and_never_missing(method, name, by):
    model, ids = tiny(name), ids_of(1, 20)
    with ml.Exact().on(model) as drop_in:
        expected = read(model, ids)
    layer = min(drop_in.approximated)  # the others have a sliding window
    model.set_attn_implementation("eager")
    asked = {"output_attentions": True} if by == "argument" else {}
    model.config.output_attentions = by == "configuration"
    before = model(ids, **asked).attentions
    with (
        method.on(model, layers=[layer], strict=True),
        pytest.raises(ValueError, match="output_attentions is"),
    ):
        model(ids, **asked)
    with method.on(model, layers=[layer]) as drop_in, pytest.warns(match="Such calls stay exact") as said:
        got = [model(ids, **asked) for _ in range(2)]
    assert len(said) == 1
    assert drop_in.exact == {(layer, "attention weights are wanted"): 2}
    close(got[0][0], expected)
    assert all(torch.equal(a, b) for one in got for a, b in zip(one.attentions, before, strict=True))
    with method.on(model):
        close(model(ids, output_attentions=False)[0].isfinite().float().mean(), torch.tensor(1.0))


@pytest.mark.parametrize("name", TINY)
def test_other_outputs_stay_in_their_places(name):
    model, ids = tiny(name), ids_of()
    model.set_attn_implementation("eager")
    for asked in ({"output_hidden_states": True}, {"return_dict": False}, {"output_attentions": False}):
        with torch.no_grad():
            expected = model(ids, **asked)
            with ml.Exact().on(model):
                got = model(ids, **asked)
        assert type(got) is type(expected)
        assert len(got) == len(expected)
        close(got[0], expected[0])
        if "output_hidden_states" in asked:
            for a, b in zip(got.hidden_states, expected.hidden_states, strict=True):
                close(a, b)


def test_a_clustered_cache_refuses_weights_too_where_it_makes_none():
    model, ids = tiny("llama"), ids_of(1, 20)
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    assert len(read_all(model, ids, past_key_values=ml.MultipoleCache()).attentions) == 3
    cache = ml.MultipoleCache()
    with (
        cache.on(model),
        pytest.raises(ValueError, match=r"output_attentions is set, but MultipoleCache\.on"),
    ):
        read_all(model, ids, past_key_values=cache)


def read_all(model, ids, **asked):
    with torch.no_grad():
        return model(ids, **asked)


# --- packed texts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("leak", ["mask", "cache", "mask and cache"])
@pytest.mark.parametrize("name", DECODERS)
@every_method
def test_packed_texts_that_would_see_each_other_are_refused(method, name, leak):
    model, ids = tiny(name), ids_of(2, 60)
    position = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in ([25, 35], [40, 20])])
    asked = {"position_ids": position, "use_cache": "cache" in leak}
    if "mask" in leak:
        asked["attention_mask"] = torch.ones_like(ids)
    with (
        method.on(model),
        pytest.raises(ValueError, match=r"begin again at token (25 of row 0|40 of row 1)"),
    ):
        read(model, ids, **asked)
    configure_attention(model, method)
    with pytest.raises(ValueError, match="position_ids begin again"):
        read(model, ids, **asked)


def test_packed_texts_are_refused_by_a_clustered_cache():
    model, ids = tiny("llama"), ids_of(1, 60)
    position = torch.cat([torch.arange(25), torch.arange(35)])[None]
    for mask in (None, torch.ones_like(ids)):
        cache = ml.MultipoleCache()
        with cache.on(model), pytest.raises(ValueError, match="position_ids begin again at token 25"):
            read(model, ids, position_ids=position, attention_mask=mask, past_key_values=cache)


@pytest.mark.parametrize("side", ["left", "right", "middle"])
@every_method
def test_positions_may_begin_again_behind_padding(method, side):
    """As transformers' generate and older tokenizers number them: padding is 1, or 0, or counts on."""
    model, ids = tiny("llama"), ids_of(2, 60)
    kept = torch.ones_like(ids)
    kept[1, {"left": slice(0, 20), "right": slice(40, None), "middle": slice(20, 30)}[side]] = 0
    counted = kept.cumsum(-1) - 1
    for position in (counted.masked_fill(kept == 0, 1), counted.clamp(min=0)):
        with method.on(model) as drop_in:
            assert read(model, ids, position_ids=position, attention_mask=kept)[kept.bool()].isfinite().all()
            cache = ml.MultipoleCache()
            with cache.on(model):
                read(model, ids, position_ids=position, attention_mask=kept, past_key_values=cache)
        assert drop_in.approximated[0] >= 1


# --- masks ----------------------------------------------------------------------------------------


def custom_masks(dtype):
    holes = torch.ones(1, 1, 40, 40, dtype=torch.bool).tril()
    holes[..., 30, 3] = False
    heads = torch.ones(1, 4, 40, 40, dtype=torch.bool).tril()
    heads[:, 1, 20:, 3] = False
    bias = torch.randn(1, 1, 40, 40, dtype=dtype, generator=torch.Generator().manual_seed(0))
    blocks = torch.block_diag(*[torch.ones(20, 20)] * 2).bool().tril()[None, None]
    return {"holes": holes, "heads": heads, "bias": bias, "two texts": blocks}


@pytest.mark.parametrize("which", ["holes", "heads", "bias", "two texts"])
@every_method
def test_any_mask_is_honoured_by_exact_attention_or_refused(method, which):
    model, ids = tiny("llama"), ids_of(2, 40)
    mask = custom_masks(model.dtype)[which].expand(2, -1, -1, -1)
    expected = read(model, ids, attention_mask=mask)
    own = isinstance(method, ml.Exact)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with method.on(model) as drop_in:
            close(read(model, ids, attention_mask=mask), expected)
    assert len(said) == (not own)
    assert len(drop_in.approximated if own else drop_in.exact) == 3
    refused = pytest.raises(ValueError, match=r"only exact attention can honour it; use ml\.Exact\(\)")
    with method.on(model, strict=True), contextlib.nullcontext() if own else refused:
        close(read(model, ids, attention_mask=mask), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said by an earlier test, or now
        configure_attention(model, method)  # and by its name
        close(read(model, ids, attention_mask=mask), expected)
    configure_attention(model, method, strict=True)
    with contextlib.nullcontext() if own else refused:
        read(model, ids, attention_mask=mask)


@every_method
def test_a_mask_made_in_inference_mode_is_seen(method):
    model = tiny("llama")
    with torch.inference_mode():
        ids = ids_of(2, 40)
        mask = torch.ones(2, 1, 40, 40, dtype=torch.bool).tril()
        with method.on(model) as drop_in:
            model(ids, attention_mask=mask)
    assert set(drop_in.approximated) == {0, 1, 2}


@pytest.mark.parametrize("dropped", ["all end", "some end", "all begin", "middle", "none"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_static_cache_with_padding_anywhere_is_exact(name, dropped):
    """Its mask is written out, for a store with more room than the prompt is long."""
    model, ids = tiny(name), ids_of(3, 12)
    mask = torch.ones_like(ids)
    places = {"all end": ([0, 1, 2], slice(-3, None)), "some end": ([0, 2], slice(-3, None)), "middle": ([0, 1, 2], 7),
              "all begin": ([0, 1, 2], slice(0, 4)), "none": ([], 0)}  # fmt: skip
    rows, columns = places[dropped]
    for row in rows:
        mask[row, columns] = 0
    asked = {"attention_mask": mask, "max_new_tokens": 14, "do_sample": False, "disable_compile": True}
    asked |= {"cache_implementation": "static", "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(ids, **asked)
    with ml.Exact().on(model):
        assert torch.equal(model.generate(ids, **asked), expected)


@pytest.mark.parametrize("seed", range(40))
def test_a_written_mask_is_read_as_it_was_made(seed):
    """Causal masks of the last ``n`` of some keys in a longer store, with random padding: the structure makes them."""
    generator = torch.Generator().manual_seed(seed)
    batch, past, n, room = (int(torch.randint(low, 6, (), generator=generator)) for low in (1, 0, 2, 0))
    keys = past + n
    kept = torch.rand(batch, keys, generator=generator) < 0.6
    kept[:, 0] = True
    place = torch.arange(past, keys)
    mask = (torch.arange(keys + room) <= place[:, None]) & torch.nn.functional.pad(kept, (0, room))[:, None]
    found = structure_of(mask[:, None], n, keys + room, lambda: True)
    if not found.causal:  # nothing but padding behind the first query's key: all queries see the same
        again = found.keep[:, None].expand_as(mask) if found.keep is not None else torch.ones_like(mask)
    else:
        again = torch.arange(keys + room) <= torch.arange(found.keys - n, found.keys)[:, None]
        keep = torch.ones(batch, found.keys, dtype=torch.bool) if found.keep is None else found.keep
        again = again & torch.nn.functional.pad(keep, (0, keys + room - found.keys))[:, None]
    own = kept[:, past:, None]  # what padding sees reaches nobody
    assert torch.equal(mask & own, again & own)


# --- dropout, and models without attention --------------------------------------------------------


def tiny_gpt2(**changes):
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 64, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**sizes, **changes))


@pytest.mark.parametrize("name", ["gpt2", *TINY])
@every_method
def test_dropout_stays_exact_or_is_refused_by_the_models_own_name_for_it(method, name):
    config = tiny_gpt2().config if name == "gpt2" else tiny(name).config
    (parameter,) = (key for key in vars(config) if "drop" in key and "att" in key)
    model = (tiny_gpt2(attn_pdrop=0.25) if name == "gpt2" else tiny(name, **{parameter: 0.25})).train()
    words = rf"dropout 0\.25.*load the model with {parameter}=0\.0"
    with method.on(model, strict=True), pytest.raises(ValueError, match=words):
        model(ids_of(1, 20))
    with method.on(model) as drop_in, pytest.warns(UserWarning, match=words):
        model(ids_of(1, 20))
    assert all("dropout 0.25" in reason or "window" in reason for _, reason in drop_in.exact)
    assert not drop_in.approximated


def hybrid(kinds):
    """Layers of convolutions, and of attention where ``kinds`` says so."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": len(kinds), "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Lfm2ForCausalLM(Lfm2Config(**sizes, **heads, layer_types=kinds)).eval()


def fnet():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    return FNetModel(FNetConfig(**sizes)).eval()


def every_way_in(model):
    for method in METHODS:
        yield method.on(model).__enter__
        yield lambda method=method: configure_attention(model, method)
    yield ml.MultipoleCache().on(model).__enter__
    yield lambda: capture(model, None, "one lamp afar", layers=[0])


@pytest.mark.parametrize("make", [fnet, lambda: hybrid(["conv", "conv"])], ids=["fnet", "convolutions"])
def test_a_model_without_attention_is_refused_on_every_way_in(make, monkeypatch):
    from multipole_lab.models.samples import capturing

    monkeypatch.setattr(capturing, "_token_ids", lambda *_: torch.arange(3))
    model = make()
    for enter in every_way_in(model):
        with pytest.raises(
            ValueError, match="does not go through transformers' attention interface: it has no"
        ):
            enter()


@every_method
def test_a_hybrid_models_other_layers_are_left_alone_and_refused_by_name(method):
    model = hybrid(["conv", "conv", "full_attention", "conv"])
    with method.on(model) as drop_in:
        read(model, ids_of(1, 20), use_cache=False)
    assert list(drop_in.methods) == [2]
    assert set(drop_in.approximated) | {layer for layer, _ in drop_in.exact} == {2}
    with pytest.raises(
        ValueError, match=r"layers contains 0, 3, which have no attention; .* has it in layers 2"
    ):
        method.on(model, layers=[0, 2, 3]).__enter__()
