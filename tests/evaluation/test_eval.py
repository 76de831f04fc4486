"""Evaluations end to end on a tiny model: what is exact loses nothing, what is not loses some."""

from pathlib import Path

import pytest
import torch
from small.evaluation import (
    evaluate,
    make_model,
    make_tokenizer,
    records,
    rows_of,
    table_of,
    write_records,
)

pytestmark = pytest.mark.usefixtures("single")

MUSE = "MuSe(clusters=8, leaf=32)"


SMALL = ("--max-tokens", "160", "--method", MUSE)


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
