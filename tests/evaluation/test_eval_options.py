"""Scores are the model's own likelihoods, whatever stands between context, question and options."""

import pandas
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from multipole_lab.evaluation.options import accuracies, choice_table, score_options, split
from multipole_lab.evaluation.reader import Head, Reader, weights_digest
from multipole_lab.threads import one_thread

SIZES = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


class Letters:
    """A token a letter, and one for each number at the beginning of an option."""

    def __call__(self, text, add_special_tokens=True, verbose=True):
        return {"input_ids": [1] * add_special_tokens + [ord(c) for c in text]}


def llama(**changes):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, max_position_embeddings=200, **changes)).eval()


def test_options_are_told_apart_where_they_first_differ():
    before, after, options = split(Letters(), "ab", "c is", [" 17.", " 12."])
    assert before == [1, ord("a"), ord("b")]
    assert bytes(after) == b"c is 1"
    assert [bytes(one) for one in options] == [b"7.", b"2."]
    with pytest.raises(ValueError, match="same tokens"):
        split(Letters(), "", "q", ["a", "a"])


def test_an_option_keeps_a_token_even_if_it_begins_another():
    _, after, options = split(Letters(), "", "q", ["a", "ab"])
    assert bytes(after) == b"q"
    assert [bytes(one) for one in options] == [b"a", b"ab"]


@pytest.mark.parametrize(
    "method", ["dense", "Exact()", "MultipoleCache(budget=1.0, levels=1, recent=8, interval=8)"]
)
def test_the_scores_are_likelihoods_of_the_whole_text(method):
    model = llama()
    context, question, options = "the lamps of the port " * 4, "how many?", [" 17.", " 12.", " 4.", " 98."]
    row = score_options(Reader(model, method), Letters(), context, question, options, answer=2)
    expected = []
    for option in options:
        ids = torch.tensor([Letters()(context + question + option)["input_ids"]])
        with torch.no_grad():
            logs = model(ids).logits[0].log_softmax(-1)
        n = len(option) - 1  # all begin with the space
        expected.append(logs[-n - 1 : -1].gather(1, ids[0, -n:, None]).sum().item())
    assert row["logprobs"] == pytest.approx(expected, abs=1e-4)
    assert row["choice"] == max(range(4), key=expected.__getitem__)
    assert row["right"] == (row["choice"] == 2)
    assert row["probability"] == pytest.approx(torch.tensor(expected).softmax(0)[2].item(), abs=1e-4)
    assert row["tokens"] == 1 + len(context) + len(question) + 1


def test_too_many_tokens_are_refused_with_the_model_named():
    with pytest.raises(ValueError, match="LlamaForCausalLM has 200 positions"):
        score_options(Reader(llama()), Letters(), "x" * 300, "q", ["a", "b"], 0)


@pytest.mark.parametrize("tile", [128, 128 * 7, 1 << 24])
def test_losses_and_divergences_do_not_depend_on_the_tile(tile, monkeypatch):
    monkeypatch.setattr("multipole_lab.evaluation.reader.TILE", tile)
    model, other = llama(), llama()
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(2)
    ids = torch.randint(128, (40,))
    ours, dense = Reader(other).hidden(ids), Reader(model).hidden(ids)
    with torch.no_grad():
        p, q = (m(ids[None]).logits[0].double().log_softmax(-1) for m in (model, other))
        torch.testing.assert_close(
            Head(model).losses(dense[:-1], ids[1:]),
            -p[:-1].gather(1, ids[1:, None])[:, 0],
            rtol=1e-5,
            atol=1e-5,
        )
        kl, same = Head(model).divergences(ours, dense)
        torch.testing.assert_close(kl, (p.exp() * (p - q)).sum(-1), rtol=1e-3, atol=1e-6)
    assert same.tolist() == (p.argmax(-1) == q.argmax(-1)).double().tolist()


def test_soft_capped_logits_are_those_of_the_model():
    torch.manual_seed(0)
    config = Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.05, max_position_embeddings=64)
    model = Gemma2ForCausalLM(config).eval()
    ids = torch.arange(20)
    with torch.no_grad():
        torch.testing.assert_close(Head(model)(Reader(model).hidden(ids)), model(ids[None]).logits[0])


def test_a_head_that_does_something_else_is_refused():
    model = llama()
    forward = model.forward

    def scaled(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = 2 * out.logits
        return out

    model.forward = scaled
    with pytest.raises(ValueError, match="LlamaForCausalLM does not make its logits"):
        Head(model)


def test_the_digest_changes_with_any_weight():
    model = llama()
    before = weights_digest(model)
    assert weights_digest(llama()) == before
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 3] += 1e-3
    assert weights_digest(model) != before


def test_the_table_counts_by_group_and_compares_with_dense():
    def row(i, method, length, choice, logprobs):
        return {"id": i, "method": method, "length": length, "choice": choice, "right": int(choice == 0),
                "logprobs": logprobs, "probability": 0.5, "seconds": 1.0}  # fmt: skip

    rows = pandas.DataFrame([
        row("a", "dense", 10, 0, [0.0, -1.0]), row("a", "Exact()", 10, 0, [-5.0, -6.0]),
        row("b", "dense", 20, 0, [0.0, -1.0]), row("b", "Exact()", 20, 1, [-1.0, 0.0]),
    ])  # fmt: skip
    table = choice_table(rows, ["dense", "Exact()"], ["length"]).set_index(["group", "value", "method"])
    assert table.loc[("all", "all", "dense"), "accuracy"] == 1
    assert table.loc[("all", "all", "Exact()"), "accuracy"] == 0.5
    assert table.loc[("all", "all", "Exact()"), "± s.e."] == pytest.approx((0.25 / 2) ** 0.5)
    assert table.loc[("length", 10, "Exact()"), "KL"] == pytest.approx(0, abs=1e-12)
    assert table.loc[("length", 10, "Exact()"), "as dense"] == 1
    assert table.loc[("length", 20, "Exact()"), "as dense"] == 0
    p = torch.tensor([0.0, -1.0]).softmax(0)
    assert table.loc[("length", 20, "Exact()"), "KL"] == pytest.approx((p[0] - p[1]).item())


def test_lengths_in_words_stand_from_short_to_long():
    lengths = ["long", "short", "medium"]
    rows = pandas.DataFrame(
        {"id": lengths, "method": "dense", "length": lengths, "choice": 0, "right": [1, 0, 1], "probability": 0.5,
         "logprobs": [[0.0, 0.0]] * 3, "seconds": 1.0}
    )  # fmt: skip
    table = choice_table(rows, ["dense"], ["length"])
    assert table["value"].tolist() == ["all", "short", "medium", "long"]
    fig = accuracies(rows, ["dense"], {"id": "question", "length": "length"}, 0.5)[1]
    assert list(fig.layout.xaxis.ticktext) == ["short", "medium", "long"]
    assert list(fig.data[0].y) == [0, 1, 1]
    assert len(accuracies(rows[:1], ["dense"], {"id": "question", "length": "length"}, 0.5)) == 1
