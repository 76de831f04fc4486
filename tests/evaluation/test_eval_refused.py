"""Texts, models and arguments that cannot be evaluated are refused by name, before any work."""

import pytest
from small.evaluation import evaluate, make_tokenizer, records, refused, write_records
from transformers import (
    BertConfig,
    BertModel,
    BloomConfig,
    BloomForCausalLM,
)

pytestmark = pytest.mark.usefixtures("single")


def test_texts_that_cannot_be_read_are_named(folder, text, tmp_path, capsys):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text(" \n")
    binary.write_bytes(b"abc\xff")
    for name in ("perplexity", "needle"):

        def tell(file, tokens=2000, name=name):
            return refused(capsys, name, "--model", folder, "--max-tokens", tokens, "--text", file)

        assert f"{tmp_path / 'none.txt'} does not exist" in tell(tmp_path / "none.txt")
        assert f"{empty} is empty" in tell(empty)
        assert f"{binary} is not UTF-8 text: invalid start byte at byte 3" in tell(binary)
        assert f"{tmp_path} is a folder" in tell(tmp_path)
    assert f"{text} has 2,970 tokens" in refused(
        capsys, "perplexity", "--model", folder, "--max-tokens", 4000, "--text", text
    )
    short = refused(capsys, "needle", "--model", folder, "--max-tokens", 4000, "--text", text)
    assert f"{text} has about 2,970 tokens" in short
    assert "fewer than 4,000" in short
    words = ("needle", "--model", folder, "--max-tokens", 2000, "--text", text, "--lengths", 90)
    assert "a haystack of 90 tokens is too short" in refused(capsys, *words)


def test_a_malformed_line_of_longbench_is_named(folder, tmp_path, capsys):
    data = write_records(tmp_path / "data.jsonl", [*records(2), {"_id": "x"}])
    said = refused(capsys, "longbench", "--model", folder, "--data", data, "--max-tokens", 900)
    assert f"{data}, line 3 lacks domain" in said


def test_models_that_cannot_be_evaluated_are_named(folder, text, tmp_path, capsys):
    encoder = tmp_path / "encoder"
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=260, **sizes)).save_pretrained(encoder)
    make_tokenizer().save_pretrained(encoder)
    words = ("perplexity", "--text", text, "--max-tokens")
    assert "BertModel is no causal language model" in refused(capsys, *words, 64, "--model", encoder)
    assert "LlamaForCausalLM has 4,096 positions; 5,000" in refused(capsys, *words, 5000, "--model", folder)
    assert str(tmp_path / "none") in refused(capsys, *words, 64, "--model", tmp_path / "none")

    old = tmp_path / "old"
    BloomForCausalLM(BloomConfig(vocab_size=260, hidden_size=32, n_layer=1, n_head=2)).save_pretrained(old)
    make_tokenizer().save_pretrained(old)
    for method in ("Exact()", "MultipoleCache()"):
        said = refused(capsys, *words, 64, "--model", old, "--method", method, "--out", tmp_path / "out")
        assert "BloomForCausalLM" in said
        assert not (tmp_path / "out").exists(), "refused before any work"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "Muse(clusters=8)"), "Did you mean 'MuSe'"),
        (("--method", "MuSe(clusters=0)"), "clusters is 0"),
        (("--limit", "0"), "--limit is 0"),
        (("--max-tokens", "1"), "--max-tokens is 1"),
        (("--buckets", "0"), "--buckets is 0"),
        (("--windows", "0"), "--windows is 0"),
    ],
)
def test_arguments_out_of_range_are_named(words, said, folder, text, capsys):
    assert said in refused(
        capsys, "perplexity", "--model", folder, "--text", text, "--max-tokens", "64", *words
    )


def test_a_method_that_approximates_nothing_is_told(folder, text, tmp_path, capsys):
    words = ("--max-tokens", 64, "--method", "MuSe(clusters=8)", "--out", tmp_path / "out")
    assert evaluate("perplexity", "--model", folder, "--text", text, *words) == 0
    assert "leaf=1024" in capsys.readouterr().err
