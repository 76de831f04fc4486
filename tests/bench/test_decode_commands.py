"""`bench decode` and `eval generate` on small problems."""

import argparse
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from multipole_lab import cli
from multipole_lab.bench.decode import cpu as bench_decode
from multipole_lab.decoding import MultipoleCache
from multipole_lab.evaluation import generate
from multipole_lab.threads import one_thread


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


def run_bench(*words):
    parser = argparse.ArgumentParser()
    bench_decode.add_arguments(parser)
    return bench_decode.run(parser.parse_args(list(words)))


def test_bench_decode_prints_a_row_a_side_with_its_error(tmp_path, capsys):
    small = ("--keys", "900", "--heads", "4", "2", "--head-size", "16", "--steps", "3", "--joins", "1")
    assert run_bench(*small, "--json", str(tmp_path / "out.json")) == 0
    printed = capsys.readouterr().out
    rows = {row["side"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert set(rows) >= {"dense", "one level", "two levels", "no replacement", "window", "pages", "top keys"}
    assert all(name in printed for name in rows)
    assert rows["dense"]["error"] == 0
    assert 0 < rows["one level"]["error"] < rows["no replacement"]["error"]
    assert rows["one level"]["megabytes"] < rows["dense"]["megabytes"]


def test_bench_decode_grow_reports_memory_and_time_of_each_part(tmp_path):
    small = ("--keys", "900", "--heads", "4", "2", "--head-size", "64", "--steps", "0", "--grow", "160")
    assert run_bench(*small, "--json", str(tmp_path / "out.json")) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert {"device", "versions", "date", "command"} <= set(record)
    rows = record["rows"]
    assert [row["keys"] for row in rows] == [760 + 20 * i for i in range(8)]
    assert rows[-1]["dense_megabytes"] == pytest.approx(4 * 900 * 2 * 128 * 4 / 1e6)
    assert all(0 < row["above"] < 0.2 and row["mean_ms"] > 0 for row in rows)


def test_bench_decode_says_what_is_missing(capsys):
    assert run_bench("--windowed") == 1
    assert "--sample" in capsys.readouterr().err
    assert run_bench("--keys", "64", "--head-size", "16", "--grow", "200") == 1
    assert "--grow" in capsys.readouterr().err
    assert run_bench("--sample", "nowhere.safetensors") == 1
    assert "nowhere" in capsys.readouterr().err


def test_eval_generate_finds_no_difference_where_all_is_exact():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, eos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.ndim > 1 else 1)  # peaked attention, so that a mistake shows
    ids = torch.randint(2, 99, (1, 700))
    with torch.no_grad():
        start = generate.prefill(model, ids[:, :680])
        dense = generate.forced(model, ids, 680, start)
        whole = model(ids).logits[0, 679:-1].log_softmax(-1)
        torch.testing.assert_close(dense, whole, atol=1e-4, rtol=1e-4)
        free = generate.generated(model, ids[:, :680], 19, start)
        row = generate.compare(model, ids, 680, {"budget": 1.0, "levels": 1}, dense, start, free)
        worse = generate.compare(model, ids, 680, {"budget": 0, "levels": 2}, dense, start, free)
    assert row["tokens"] == 20
    assert row["agreement"] == 1
    assert abs(row["kl"]) < 1e-6
    assert row["first_difference"] is None
    assert worse["kl"] > row["kl"]


def test_the_cache_of_a_prefill_is_clustered_at_the_first_step():
    cache = MultipoleCache(budget=16, dense_until=0)
    generate.started(cache, [(torch.randn(1, 2, 600, 16), torch.randn(1, 2, 600, 16))])
    assert not cache.layers[0].hierarchy.blocks
    cache.layers[0].attend(torch.randn(1, 4, 1, 16), None, None)
    assert cache.layers[0].hierarchy.blocks


def test_eval_is_a_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["eval", "generate", "--help"])
    assert stop.value.code == 0
    assert "--budget" in capsys.readouterr().out
