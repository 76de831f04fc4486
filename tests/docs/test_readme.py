"""What the README and the table of methods print is what is printed."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import multipole_lab as ml
from multipole_lab.measure.operation_counts import share_of_exact
from multipole_lab.method_text import parse_method

ROOT = Path(__file__).resolve().parents[2]
CHOOSING = (ROOT / "docs/guides/choosing.md").read_text(encoding="utf-8").split("## Errors on long texts")[0]
ROWS = re.findall(r"^\| `(\w+\(.*?\))` \| ([\d.]+)% \| (\d+)% \|", CHOOSING, re.MULTILINE)
SLOW = {"TopK(keys=64)", "MuSe(order='dipole')", "Centroid(clusters=64)"}  # seconds each


def test_the_readmes_lines_print_what_stands_below_them():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code, printed = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL).groups()
    assert len([line for line in code.splitlines() if line]) == 5
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {})
    assert said.getvalue() == printed


def test_a_stranger_reads_the_readme_in_ninety_seconds():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    words = re.sub(r"```.*?```|!?\[([^\]]*)\]\([^)]*\)|\|", " ", text, flags=re.DOTALL)
    before, _, _ = words.partition("## The notebooks")
    assert len(before.split()) < 450  # 300 words a minute


def test_readme_and_first_page_say_the_same_of_what_is_needed():
    found = {
        re.search(
            r"^Python 3\.11 .*?\n\n", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        )[0]
        for name in ("README.md", "docs/index.md")
    }
    assert len(found) == 1, found


@pytest.fixture(scope="module")
def layer():
    return ml.load_sample("smollm2").crop(2048)[15]


@pytest.mark.parametrize(("method", "share"), [(method, share) for method, _, share in ROWS])
def test_the_table_of_methods_has_the_share_of_products(method, share):
    assert int(share) == round(100 * share_of_exact(parse_method(method), 2048, heads=9, kv_heads=3))


def test_the_other_layers_have_the_errors_that_stand_above_the_table():
    sample, method = ml.load_sample("smollm2").crop(2048), ml.MuSe()
    errors = []
    for number in (3, 28):
        q, k, v = sample[number].q, sample[number].k, sample[number].v
        errors.append(100 * ml.relative_squared_error(method(q, k, v), ml.Exact()(q, k, v)).item())
    words = "layer 3 is harder ({:.1f}% with `MuSe()`) and layer 28 easier ({:.1f}%)".format(*errors)
    assert words in " ".join(CHOOSING.split())


def test_the_table_of_methods_has_the_errors(layer):
    exact = ml.Exact()(layer.q, layer.k, layer.v)
    assert len(ROWS) > 8
    for text, error, _ in ROWS:
        if text not in SLOW:
            out = parse_method(text)(layer.q, layer.k, layer.v)
            found = 100 * ml.relative_squared_error(out, exact).item()
            assert abs(found - float(error)) <= 0.06, text
