"""Evaluations end to end on a tiny model: every command, resuming, a kill in the middle, what is refused."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_gpu
import pandas
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from multipole_lab import cli, environment as measured
from multipole_lab.environment import machine
from multipole_lab.evaluation import perplexity
from multipole_lab.evaluation.longbench import FIELDS
from multipole_lab.threads import one_thread

MUSE = "MuSe(clusters=8, leaf=32)"
SMALL = ("--max-tokens", "160", "--method", MUSE)


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


def make_tokenizer():
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<s>", *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def make_model(**changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(**{**sizes, **heads, "eos_token_id": None, **changes})
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(6 if "proj" in name else 1)  # peaked attention, so that an approximation shows
    return model.eval()


def make_folder(path):
    make_model().save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(
        "".join(f"Lamp {i} was lit. It burned {i * 7 % 31} hours, as lamps do.\n" for i in range(60))
    )
    return str(path)


def records(n=3):
    return [
        {
            **dict.fromkeys(FIELDS, "Word. " * 10), "_id": f"q{i}", "length": ("short", "long")[i % 2],
            "difficulty": "easy", "domain": "one", "answer": "ABCD"[i % 4], "context": f"It is {i}. " * (20 + 40 * i),
        }
        for i in range(n)
    ]  # fmt: skip


def write_records(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def evaluate(*words):
    return cli.main(["eval", *map(str, words)])


def rows_of(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()[1:]]


def table_of(out):
    return pandas.read_csv(out / "table.csv").drop(columns="seconds")


# --- the commands ---------------------------------------------------------------------------------


def test_perplexity_is_the_models_own_loss_and_exact_loses_nothing(folder, text, tmp_path, capsys):
    out = tmp_path / "out"
    methods = ("--method", "Exact()", "--method", "Window(size=16)")
    assert evaluate("perplexity", "--model", folder, "--text", text, *SMALL, *methods, "--out", out) == 0
    table = table_of(out).set_index("method")
    tokenizer = make_tokenizer()
    ids = torch.tensor([tokenizer(Path(text).read_text())["input_ids"][:160]])
    with torch.no_grad():
        own = make_model()(ids, labels=ids).loss.item()
    assert table.loc["dense", "loss"] == pytest.approx(own, rel=1e-5)
    assert table.loc["dense", "tokens"] == 159
    assert table.loc["Exact()", "loss"] == pytest.approx(own, rel=1e-5)
    assert table.loc["Exact()", "KL"] < 1e-6
    assert table.loc["Exact()", "same token"] == 1
    assert table.loc["Window(size=16)", "KL"] > table.loc["Exact()", "KL"] + 1e-4
    assert table.loc["MuSe(clusters=8, leaf=32)", "KL"] > 1e-5
    printed = capsys.readouterr().out
    assert {"MuSe(clusters=8,", "leaf=32)"} <= set(
        printed.split()
    )  # in two lines, where the table would be too wide
    assert str(out / "report.html") in printed


def test_a_cache_that_sums_all_keys_exactly_loses_nothing_and_one_that_does_not_loses_some(
    folder, text, tmp_path
):
    out = tmp_path / "out"
    caches = (
        "MultipoleCache(budget=1.0, levels=1)",
        "MultipoleCache(budget=0, sinks=0, recent=8, interval=8)",
    )
    words = [word for cache in caches for word in ("--method", cache)]
    assert (
        evaluate("perplexity", "--model", folder, "--text", text, "--max-tokens", 200, *words, "--out", out)
        == 0
    )
    kl = table_of(out).set_index("method")["KL"]
    assert kl[caches[0]] < 1e-6
    assert kl.iloc[2] > 1e-5
    first = [row["kl"][0] for row in rows_of(out) if row["method"] != "dense"]
    assert max(first) < 1e-6, "the first bucket is the prompt, which a cache reads exactly"


@pytest.mark.parametrize("kind", ["needle", "symbolic", "longbench"])
def test_forced_choice_agrees_with_dense_where_the_method_is_exact(kind, folder, text, tmp_path):
    out = tmp_path / "out"
    data = write_records(tmp_path / "data.jsonl", records())
    words = {
        "needle": ("--text", text, "--lengths", 600, 800, "--depths", 0, 1, "--max-tokens", 800),
        "symbolic": (
            "--operations",
            1,
            2,
            "--lengths",
            900,
            "--problems",
            2,
            "--ask",
            "direct",
            "--max-tokens",
            900,
        ),
        "longbench": ("--data", data, "--max-tokens", 500),
    }[kind]
    methods = ("Exact()", "Window(size=16, sinks=0)", "MultipoleCache(budget=1.0, levels=1)")
    words += tuple(word for method in methods for word in ("--method", method))
    assert evaluate(kind, "--model", folder, *words, "--out", out) == 0
    table = table_of(out)
    total = table[table["group"] == "all"].set_index("method")
    assert len(rows_of(out)) == 4 * total.loc["dense", "questions"] == 4 * {"longbench": 3}.get(kind, 4)
    for same in ("dense", "Exact()", "MultipoleCache(budget=1.0, levels=1)"):
        assert total.loc[same, "as dense"] == 1
        assert total.loc[same, "KL"] < 1e-6
    assert total.loc["Window(size=16, sinks=0)", "KL"] > 1e-4
    page = (out / "report.html").read_text()
    assert page.count("plotly-graph-div") >= 1
    assert "sendChartToCloud" in page
    assert 'src="http' not in page
    assert "Window(size=16, sinks=0)" in page


def test_only_what_is_missing_is_computed(folder, text, tmp_path, capsys):
    out = tmp_path / "out"
    words = ("perplexity", "--model", folder, "--text", text, "--out", out, "--max-tokens", 100)
    assert evaluate(*words, "--windows", 3, "--limit", 2) == 0
    before = rows_of(out)
    assert evaluate(*words, "--windows", 3, "--method", "Window(size=8)") == 0
    after = rows_of(out)
    assert after[:2] == before
    assert len(after) == 6
    assert "2 of 6 results already" in capsys.readouterr().err
    table = (out / "table.csv").read_bytes()
    assert evaluate(*words, "--windows", 3, "--method", "Window(size=8)") == 0
    assert rows_of(out) == after
    assert (out / "table.csv").read_bytes() == table


def test_results_name_their_machine_and_two_machines_are_told(folder, text, tmp_path, monkeypatch, capsys):
    fake_gpu.pretend(monkeypatch)
    out = tmp_path / "out"
    words = (
        "perplexity",
        "--model",
        folder,
        "--text",
        text,
        "--out",
        out,
        "--max-tokens",
        100,
        "--windows",
        2,
    )
    assert evaluate(*words, "--limit", 1) == 0
    printed = capsys.readouterr().out
    assert f"Measured on {machine('cpu')}, float32; python" in printed
    assert "machines" not in printed
    header = json.loads((out / "results.jsonl").read_text().splitlines()[0])
    assert (header["device"], header["dtype"]) == (machine("cpu"), "float32")
    assert {"triton", "cuda"} <= set(header["versions"])
    assert machine("cpu") in (out / "report.html").read_text()
    monkeypatch.setattr(measured, "machine", lambda *_: "another machine")
    assert evaluate(*words) == 0
    assert "seconds are of 2 machines" in capsys.readouterr().out
    assert rows_of(out)[1]["device"] == "another machine"


def test_the_same_settings_find_their_folder_again(folder, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("perplexity", "--model", folder, "--text", text, "--max-tokens")
    assert evaluate(*words, 100) == 0
    (out,) = (tmp_path / "runs").iterdir()
    before = (out / "results.jsonl").read_bytes()
    assert evaluate(*words, 100, "--method", "Exact()") == 0
    assert (out / "results.jsonl").read_bytes().startswith(before)
    assert evaluate(*words, 90) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_trained_model_is_another_model(text, tmp_path, capsys):
    folder, out = make_folder(tmp_path / "model"), tmp_path / "out"
    words = ("perplexity", "--model", folder, "--text", text, "--max-tokens", 64, "--out", out)
    assert evaluate(*words) == 0
    model = make_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.001)
    model.save_pretrained(folder)
    assert evaluate(*words) == 1
    assert "weights" in capsys.readouterr().err


# --- a kill ---------------------------------------------------------------------------------------


def test_a_killed_evaluation_continues_to_the_same_table(folder, text, tmp_path, capsys):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    words = [
        "perplexity",
        "--model",
        folder,
        "--text",
        text,
        "--max-tokens",
        "64",
        "--windows",
        "24",
        "--threads",
        "1",
    ]
    words += ["--method", "MuSe(clusters=4, leaf=16)", "--out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "multipole_lab.cli", "eval", *words, str(killed)], stderr=subprocess.DEVNULL
    )
    results = killed / "results.jsonl"
    while process.poll() is None and not (results.exists() and results.read_bytes().count(b"\n") > 4):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    had = results.read_bytes()
    assert 4 < had.count(b"\n") < 49, "the kill came in the middle"
    results.write_bytes(had + b'{"id": "torn in the mid')

    assert evaluate(*words, killed) == 0
    assert "results already; continuing" in capsys.readouterr().err
    assert evaluate(*words, whole) == 0
    assert results.read_bytes().startswith(had)
    assert len(rows_of(killed)) == 48
    assert table_of(killed).to_csv().encode() == table_of(whole).to_csv().encode()


# --- what is refused ------------------------------------------------------------------------------


def refused(capsys, *words):
    assert evaluate(*words) == 1
    printed = capsys.readouterr().err.splitlines()[-1]
    assert printed.startswith("multipole-lab eval ")
    return printed


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


def test_an_interrupted_run_says_how_to_go_on(folder, text, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    words = (
        "perplexity",
        "--model",
        folder,
        "--text",
        text,
        "--text",
        text,
        "--max-tokens",
        64,
        "--windows",
        3,
    )
    score, calls = perplexity._Scorer.__call__, []

    def interrupted(self, item, reader):
        calls.append(item.id)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(self, item, reader)

    with monkeypatch.context() as patch:
        patch.setattr(perplexity._Scorer, "__call__", interrupted)
        assert evaluate(*words, "--out", out) == 130
    assert "keeps 2 results; the same command continues" in capsys.readouterr().err
    assert evaluate(*words, "--out", out) == 0
    assert len(rows_of(out)) == 3, "a text that is named twice is read once"
    assert table_of(out)["tokens"].tolist() == [3 * 63]
