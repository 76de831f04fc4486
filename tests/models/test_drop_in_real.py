"""Methods inside the two real models, where their weights are in the cache."""

import importlib.resources

import pytest
import torch

import multipole_lab as ml
from multipole_lab.measure import cosine
from multipole_lab.models import is_cached

TEXT = importlib.resources.files("multipole_lab.data").joinpath("reading.txt").read_text(encoding="utf-8")


def real(name):
    if not is_cached(name):
        pytest.skip(f"the weights of {name} are not in the cache; ml.load_model({name!r}) fetches them")
    return ml.load_model(name)


@pytest.fixture(scope="module")
def smollm2():
    return real("smollm2")


@pytest.fixture(scope="module")
def minilm():
    return real("minilm")


def sentences(minilm, count):
    """Spans of the story with as many tokens as the model has positions, [count, 512]."""
    _, tokenizer = minilm
    ids = tokenizer(TEXT, add_special_tokens=False, truncation=True, max_length=510 * count)["input_ids"]
    first, last = (torch.full((count, 1), t) for t in (tokenizer.cls_token_id, tokenizer.sep_token_id))
    return torch.cat([first, torch.tensor(ids).view(count, 510), last], 1)


def embeddings(minilm, ids, mask=None):
    """The mean of the hidden states, as all-MiniLM-L6-v2 makes its sentence embeddings."""
    mask = torch.ones_like(ids) if mask is None else mask
    with torch.no_grad():
        hidden = minilm[0](ids, attention_mask=mask)[0]
    return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)


def test_exact_attention_in_smollm2_is_its_own(smollm2):
    model, tokenizer = smollm2
    ids = torch.tensor(tokenizer(TEXT, truncation=True, max_length=200)["input_ids"])[None]
    with torch.no_grad():
        expected = model(ids).logits
        with ml.Exact().on(model) as drop_in:
            got = model(ids).logits
    assert sorted(drop_in.approximated) == list(range(30))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_smollm2_reads_on_with_muse_and_generates_the_same_with_exact(smollm2):
    model, tokenizer = smollm2
    ids = torch.tensor(tokenizer(TEXT, truncation=True, max_length=300)["input_ids"])[None]
    with torch.no_grad():
        exact = model(ids, labels=ids, use_cache=False).loss.item()
        with ml.MuSe(clusters=32, near=8, leaf=128, sinks=4).on(model) as drop_in:
            loss = model(ids, labels=ids, use_cache=False).loss.item()
    assert sum(drop_in.approximated.values()) == 30
    assert 1e-5 < abs(loss / exact - 1) < 0.1
    expected = model.generate(ids, max_new_tokens=4, do_sample=False)
    with ml.Exact().on(model):
        assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False), expected)


def test_exact_attention_in_minilm_is_its_own_with_padding_too(minilm):
    ids = sentences(minilm, 2)[:, :150]
    mask = torch.ones_like(ids)
    mask[1, 90:] = 0
    expected = embeddings(minilm, ids, mask)
    with ml.Exact().on(minilm[0]):
        torch.testing.assert_close(embeddings(minilm, ids, mask), expected, rtol=1e-4, atol=1e-5)
    alone = embeddings(minilm, ids[1:, :90])
    torch.testing.assert_close(expected[1:], alone, rtol=1e-3, atol=1e-4)


def test_sentence_embeddings_of_minilm_hold_at_32_clusters(minilm):
    ids = sentences(minilm, 2)
    exact = embeddings(minilm, ids)
    with ml.MuSe(clusters=32, near=2).on(minilm[0]) as drop_in:
        got = cosine(embeddings(minilm, ids), exact)
    assert dict(drop_in.approximated) == dict.fromkeys(range(6), 1)
    assert got.mean() > 0.98
