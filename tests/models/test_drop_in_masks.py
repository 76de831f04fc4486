"""Padding, packed texts, windows, sinks and caps: what a method inside a model honours, and what it refuses."""

import warnings

import pytest
import torch
from tiny_models import SMALL, close, differ, gemma2, ids_of, read, t5, tiny

import multipole_lab as ml
from multipole_lab.models.drop_in_names import configure_attention


@pytest.mark.parametrize("name", ["llama", "gpt-neox", "bert"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_for_the_text_beside_it(name, side):
    """With as many clusters as keys or a window, what padded positions hold reaches nobody."""
    model, ids = tiny(name), ids_of(1, 40)
    method = ml.Window(size=8, sinks=0) if name != "bert" else ml.TopK(keys=5)
    position = torch.arange(40)[None]
    arguments = {} if name == "bert" else {"position_ids": position}
    with method.on(model):
        alone = read(model, ids, **arguments)
    pad = torch.full((1, 13), 5)
    kept = torch.cat([torch.zeros_like(pad), torch.ones_like(ids)], 1)
    padded = torch.cat([pad, ids], 1)
    position = torch.cat([torch.zeros_like(pad), position], 1)
    if side == "right":
        padded, kept, position = (torch.roll(x, -13, 1) for x in (padded, kept, position))
    arguments = {"position_ids": position}
    with method.on(model):
        got = read(model, padded, attention_mask=kept, **arguments)
    close(got[kept.bool()], alone[0])


@pytest.mark.parametrize("same", [True, False], ids=["same cuts", "own cuts"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt-neox"])
@pytest.mark.parametrize("method", [ml.Exact(), SMALL], ids=str)
def test_packed_texts_do_not_see_each_other(name, same, method):
    model, ids = tiny(name), ids_of(2, 60)
    cuts = [[25, 35], [25, 35] if same else [40, 20]]
    position = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in cuts])
    with method.on(model) as drop_in:
        got = read(model, ids, position_ids=position, use_cache=False)
        for i, row in enumerate(cuts):
            for part, text in zip(got[i].split(row), ids[i].split(row), strict=True):
                close(part, read(model, text[None], use_cache=False)[0])
    assert set(drop_in.approximated) == {0, 1, 2}
    if method == ml.Exact():
        close(got, read(model, ids, position_ids=position, use_cache=False))


def test_cu_seq_lens_must_agree_with_the_positions():
    model, ids = tiny("llama"), ids_of(1, 60)
    position = torch.cat([torch.arange(25), torch.arange(35)])[None]
    lengths = torch.tensor([0, 25, 60], dtype=torch.int32)
    with SMALL.on(model):
        read(model, ids, position_ids=position, cu_seq_lens_q=lengths, use_cache=False)
        with pytest.raises(ValueError, match="cu_seq_lens_q packs texts that position_ids do not show"):
            read(model, ids, cu_seq_lens_q=lengths, use_cache=False)


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_a_mask_that_the_user_wrote_out(causal, additive):
    model, ids = tiny("llama"), ids_of(2, 40)
    mask = torch.ones(2, 1, 40, 40, dtype=torch.bool)
    mask[0, :, :, :7] = False
    if causal:
        mask = mask.tril()
    seen = mask[:, 0].any(-1)
    if additive:
        mask = torch.zeros(mask.shape, dtype=model.dtype).masked_fill(~mask, torch.finfo(model.dtype).min)
    expected = read(model, ids, attention_mask=mask)
    with ml.Exact().on(model) as drop_in:
        got = read(model, ids, attention_mask=mask)
    close(got[seen], expected[seen])
    assert set(drop_in.approximated) == {0, 1, 2}


def test_a_sliding_window_stays_exact_unless_it_is_named_or_longer_than_the_text():
    model, ids = tiny("gemma3"), ids_of()
    exact = read(model, ids)
    with ml.Window(size=4).on(model) as drop_in:
        assert differ(read(model, ids), exact)
    assert dict(drop_in.approximated) == {1: 1}
    assert drop_in.exact == {(i, "sliding window or chunk of 16 tokens"): 1 for i in (0, 2)}
    with ml.Window(size=4).on(model, layers=[0]):
        with pytest.warns(match=r"layer 0 \(Gemma3Attention\) has a sliding window .* leave it out"):
            assert torch.equal(read(model, ids), exact)
        assert differ(read(model, ids[:, :15]), exact[:, :15])
    with (
        ml.Window(size=4).on(model, layers=[0], strict=True),
        pytest.raises(ValueError, match="leave it out"),
    ):
        read(model, ids)


def test_the_sinks_of_gpt_oss_join_the_denominator():
    model, ids = tiny("gpt-oss"), ids_of()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.copy_(torch.tensor([3.0, -2.0, 0.0, 8.0]))
    expected = read(model, ids)
    with ml.Exact().on(model) as drop_in:
        close(read(model, ids), expected)
    assert dict(drop_in.approximated) == {1: 1}


@pytest.mark.parametrize(
    ("make", "words"),
    [(gemma2, r"caps its logits \(softcap=50.0\)"), (t5, "adds a position bias to its logits")],
)
@pytest.mark.parametrize("method", [ml.Exact(), SMALL], ids=repr)
def test_capped_logits_and_position_biases_stay_exact_or_are_refused(make, words, method):
    model, ids = make(), ids_of()
    exact = read(model, ids)
    with (
        method.on(model) as drop_in,
        pytest.warns(UserWarning, match=rf"{words}, which .* cannot do") as said,
    ):
        assert torch.equal(read(model, ids), exact)
    assert len(said) == 1
    assert len(drop_in.exact) == 2
    assert not drop_in.approximated
    with method.on(model, strict=True), pytest.raises(ValueError, match=words):
        read(model, ids)
    name = configure_attention(model, method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said by an earlier test, or now
        close(read(model, ids), exact)
    assert model.config._attn_implementation == name
