"""The README's table of calls is what the records say."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "data" / "benchmarks" / "called"


def rows():
    """The cells of the table under "As called."; of every number as many digits as are printed."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("**As called.**")[1].split("**Causal**")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "x |" in line
    ]


def record(name):
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))["rows"]


def as_printed(cell, value):
    """The value with the digits of the cell."""
    digits = len(re.fullmatch(r"\d+(?:\.(\d+))?[x%]", cell)[1] or "")
    return f"{value:.{digits}f}{cell[-1]}"


@pytest.mark.parametrize(
    ("columns", "name"),
    [((1, 3), "h200-muse-8x64-called"), ((2, 3), "h200-muse-8x64"), ((4, 6), "h200-muse-causal-8x64-called"),
     ((5, 6), "h200-muse-causal-8x64")],
)  # fmt: skip
def test_the_table_of_calls_is_the_record(columns, name):
    table, recorded = rows(), {r["n"]: r for r in record(name)}
    assert len(table) == 3
    for cells in table:
        r = recorded[int(cells[0].replace(",", ""))]
        speed, error = (cells[i] for i in columns)
        assert speed == as_printed(speed, r["speedup"])
        assert error == as_printed(error, 100 * r["rse"])


def test_the_speeds_of_methods_as_called_are_the_record():
    text = (ROOT / "docs" / "guides" / "gpu.md").read_text(encoding="utf-8").split("## As called")[1]
    lines = text.splitlines()
    at_speeds = next(i for i, line in enumerate(lines) if "x / " in line)
    cells, heads = (lines[i].strip("|").split("|") for i in (at_speeds, at_speeds - 2))
    names = [head.strip(" `").replace('"', "'") for head in heads]
    assert len(names) == 4
    at = {r["method"]: r for r in record("h200-methods") if r["n"] == 16384}
    for name, cell in zip(names, cells, strict=True):
        for kind, printed in zip(("call_ms", "graph_ms"), cell.strip().split(" / "), strict=True):
            assert printed == as_printed(printed, at["exact"][kind] / at[name][kind]), (name, kind)
    longest = record("h200-speed-panel")[-1]
    assert f"takes {longest['approx_ms']:.2f} ms at {longest['n']:,} tokens" in text
    assert f"cuDNN takes {longest['exact_ms']:.1f}." in text


def test_the_causal_speeds_of_the_guide_are_the_record():
    text = (ROOT / "docs" / "guides" / "gpu.md").read_text(encoding="utf-8").split("(`h200-causal.json`):")[1]
    text = text.split("`balanced` sorts")[0]
    head, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    names = [name.strip(" `").replace('"', "'") for name in head.strip("|").split("|")[1:]]
    of = {(r["n"], r["batch"], r["backward"], r["method"]): r for r in record("h200-causal")}

    def check(printed, n, texts, backward, name):
        exact, own = of[n, texts, backward, "exact"], of[n, texts, backward, name]
        for kind, one in zip(("call_ms", "stream_ms", "graph_ms"), printed.split(" / "), strict=True):
            assert float(one[:-1]) == pytest.approx(exact[kind] / own[kind], abs=0.00501), (
                n,
                texts,
                name,
                kind,
            )

    for line in lines:
        where, *cells = line.strip("|").split("|")
        n, texts = where.replace(",", "", 1).split(", ")
        for name, cell in zip(names, cells, strict=True):
            check(cell.strip(), int(n), int(texts), False, name)
    assert len(lines) == 6
    check(re.search(r"2 texts: `MuSe\(\)` (.*)\. A call", text)[1], 16384, 2, True, "MuSe()")


def test_why_the_panel_is_faster_than_the_readme_is_what_the_records_say():
    text = " ".join((ROOT / "docs" / "guides" / "gpu.md").read_text(encoding="utf-8").split())
    table = record("h200-muse-8x64-called")
    said = "README's {speedup:.0f}x at this length ({exact_ms:.1f} ms against {ms:.2f})"
    assert said.format(**table[-1]) in text
    assert [row["copies"] > 1 for row in table] == [row["n"] < 65536 for row in table]
    assert {row["heads"] for row in table} == {8}
    panel = json.loads((RECORDS / "h200-speed-panel.json").read_text(encoding="utf-8"))
    assert "9 heads on 3" in panel["source"]
