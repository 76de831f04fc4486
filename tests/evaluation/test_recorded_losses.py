"""What the guides say of losses on a processor is what the records say."""

import json
import re
from pathlib import Path

import pytest

from multipole_lab.measure.operation_counts import share_of_exact
from multipole_lab.method_text import as_text, parse_method

ROOT = Path(__file__).resolve().parents[2]


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def test_a_third_of_the_cost_spent_otherwise():
    words = " ".join(read("docs/guides/choosing.md").split("A third of the cost spent otherwise")[1].split())
    for row in json.loads(read("data/benchmarks/real/cpu-loss.json"))["rows"]:
        method = parse_method(row["method"])
        share = share_of_exact(method, 8192, causal=True, heads=9, kv_heads=3)
        assert share == pytest.approx(row["share_of_exact"], abs=1e-4)
        assert share <= 1 / 3
        said = re.findall(r"`(MuSe\([^`]*)`[^;.`]*? \+(\d\.\d\d)%", words)
        if row["text"] == "reading":
            assert f"{row['above_percent']:+.2f}% on the story" in words
        if row["text"] == "python-topics":
            assert f"{row['above_percent']:.2f}" in [
                n for text, n in said if as_text(parse_method(text)) == as_text(method)
            ]


def test_both_caches_on_the_same_tokens():
    record = json.loads(read("data/benchmarks/decode/cpu-kvpress.json"))
    dense = {row["text"]: row["loss"] for row in record["rows"] if row["side"] == "dense"}
    for row in record["rows"]:
        assert row.get("dense_loss", dense[row["text"]]) == pytest.approx(dense[row["text"]], abs=1e-6)
    lines = re.findall(
        r"\| [^|]*`(\w+)\((?:budget=)?([\d.]+)\)` \| ([^|]*) \| ([^|]*) \|",
        read("docs/guides/coming_from.md"),
    )
    assert len(lines) == 6
    for side, setting, *cells in lines:
        for cell, text in zip(cells, ("reading", "python-topics"), strict=True):
            row = next(
                row
                for row in record["rows"]
                if (row["text"], row["side"]) == (text, side)
                and float(setting) == row.get("budget", row.get("compression_ratio"))
            )
            assert cell == f"{100 * (row['loss'] / dense[text] - 1):+.2f}%"
