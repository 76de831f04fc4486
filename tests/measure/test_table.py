"""Tables of results print whole: in 80 columns or what a terminal has, with no column, row or method hidden."""

import io
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from hypothesis import given, settings, strategies as st

import multipole_lab as ml
from multipole_lab.attention import Method
from multipole_lab.table import NARROW, ROWS, Table, printed

ROOT = Path(__file__).resolve().parents[2]
LONG = ml.MuSe(
    clusters="auto",
    query_clusters=16,
    near=4,
    partition="balanced",
    backend="torch",
    order="dipole",
    dipole_rank=None,
)


@pytest.fixture(scope="module")
def sample():
    return ml.load_sample("smollm2").crop(128)


@pytest.fixture(scope="module")
def compared(sample):
    return ml.compare(sample, [ml.MuSe(order="monopole"), ml.MuSe(order="dipole")], repeats=1)


def squeezed(text):
    """Without white space: a text that took several lines reads like one."""
    return re.sub(r"\s+", "", text)


def test_the_example_of_the_readme_prints_whole(compared, capsys):
    print(compared)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text
    assert "MuSe() " in text
    assert "MuSe(order='dipole') " in text
    for name in compared.columns:
        assert re.search(rf"\b{name}\b", text), name
    heading, *lines = text.splitlines()
    assert lines[len(compared) :][:1] == ["in every row: causal False, n 128, memory NaN"]
    for row, line in zip(compared.itertuples(), lines, strict=False):
        numbers = (row.rse, row.worst_head, row.seconds, row.exact_seconds, row.speedup)
        assert line.split()[-6:] == [str(row.layer), *(f"{x:.4g}" for x in numbers)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_long_methods_many_rows_and_narrow_terminals(sample, causal, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    methods = [LONG, *(ml.Window(size=n) for n in range(1, 31))]
    table = ml.compare(sample, methods, causal, layers=[3, 15, 28], tokens=32, repeats=1)
    text = repr(table)
    assert max(map(len, text.splitlines())) <= min(width, 80)
    assert "..." not in text
    for part in re.findall(r"\w+=[^,)]+|MuSe\(", repr(LONG)):
        assert text.count(part) >= 3 or (width == 20 and squeezed(text).count(part) == 3), part
    for name in table.columns:
        assert name in text
    for x in table["rse"]:
        assert f"{x:.4g}" in text
    assert f"causal {causal}" in " ".join(text.split())


cells = st.one_of(
    st.floats(), st.integers(-(10**12), 10**12), st.booleans(), st.none(),
    st.text("abc(=,' ", min_size=1, max_size=90).map(str.strip).filter(bool),
)  # fmt: skip


@st.composite
def tables(draw):
    names = draw(st.lists(st.text("abcxyz_", min_size=1, max_size=12), min_size=1, max_size=14, unique=True))
    rows = draw(st.integers(1, 6))
    table = Table({name: draw(st.lists(cells, min_size=rows, max_size=rows)) for name in names})
    index = draw(st.sampled_from(["plain", "words", "two"]))
    if index == "words":
        table.index = pandas.Index([f"row {i}" for i in range(rows)], name="key")
    elif index == "two":
        table.index = pandas.MultiIndex.from_tuples([(i, f"b{i}") for i in range(rows)], names=["one", None])
    return table


@given(tables(), st.integers(40, 100))
@settings(max_examples=200, deadline=None)
def test_any_table_fits_and_hides_nothing(table, width):
    text = printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    for name in table.columns:
        assert squeezed(name) in squeezed(text)
        for value in table[name]:
            if isinstance(value, str) and len(value) <= NARROW // 2:
                assert " ".join(value.split()) in " ".join(text.split()) or squeezed(value) in squeezed(text)
            elif isinstance(value, int):
                assert str(value) in text or f"{value:.4g}" in text


def test_it_is_a_data_frame_and_what_is_computed_from_it_prints_whole_too(compared):
    assert isinstance(compared, pandas.DataFrame)
    some = (
        compared[compared["layer"] == 15],
        compared.sort_values("rse"),
        compared.head(2),
        compared.round(3),
        compared.groupby("method")[["rse", "speedup"]].mean(),
        compared.assign(more=1.0, other="MuSe(clusters=32, near=4, partition='balanced', order='dipole')"),
        compared.set_index(["layer", "method"]),
    )
    for table in some:
        assert isinstance(table, Table)
        assert "..." not in repr(table)
        assert max(map(len, repr(table).splitlines())) <= 80
    assert "2 " in repr(some[0]), "rows keep their labels"
    pandas.testing.assert_frame_equal(pickle.loads(pickle.dumps(compared)), compared)
    assert isinstance(compared["rse"], pandas.Series)


def test_files_and_full_texts_are_those_of_pandas(compared):
    plain = pandas.DataFrame(compared)
    assert type(plain) is pandas.DataFrame
    for form in ("to_string", "to_csv", "to_html", "to_json"):
        assert getattr(compared, form)() == getattr(plain, form)()
    back = pandas.read_csv(io.StringIO(compared.to_csv(index=False)))
    pandas.testing.assert_frame_equal(back, plain)
    assert [eval(text, vars(ml.attention)) for text in back["method"][:2]] == [
        ml.MuSe(),
        ml.MuSe(order="dipole"),
    ]
    assert all(isinstance(eval(text, vars(ml.attention)), Method) for text in back["method"])


def test_a_notebook_shows_every_column_and_the_whole_method(sample):
    table = ml.compare(
        sample, [LONG, *(ml.Window(size=n) for n in range(1, 81))], layers=[15], tokens=16, repeats=1
    )
    page = table._repr_html_()
    assert "..." not in page
    assert repr(LONG).replace("'", "&#x27;") in page or repr(LONG) in page
    assert page.count("<tr") == 82
    assert all(f"<th>{name}</th>" in page for name in table.columns)
    assert pandas.get_option("display.max_colwidth") == 50, "the reader's own options are as they were"


def test_a_long_table_prints_its_ends_and_says_so():
    text = repr(Table({"x": range(10_000)}))
    assert len(text.splitlines()) == ROWS + 2
    assert (
        text.splitlines()[-1]
        == f"the first and the last {ROWS // 2} of 10,000 rows; to_string() has them all"
    )
    assert "9999" in text
    assert "..." not in repr(Table({"x": range(ROWS)}))
    assert "Columns: [x]" in repr(Table({"x": []}))


def test_the_readers_own_format_of_numbers_is_kept():
    with pandas.option_context("display.float_format", "{:.1f}".format):
        assert repr(Table({"x": [1.25]})) == "  x\n1.2"


def test_one_method_or_one_layer_needs_no_list(sample, compared):
    table = ml.compare(sample, ml.MuSe(), layers=15, repeats=1)
    assert table[["method", "layer"]].values.tolist() == [["MuSe()", 15]]
    assert table["rse"][0] == compared["rse"][2]


def test_what_is_no_sample_or_no_method_is_answered_with_what_is_needed(sample):
    for call in (ml.compare, lambda sample, methods: ml.tune(sample, methods=methods), ml.sweep):
        with pytest.raises(
            TypeError, match=r"sample is a LayerSample; .* the layer's number as layers=\[15\]"
        ):
            call(sample[15], [ml.MuSe()])
        with pytest.raises(TypeError, match=r"sample is a str; .* ml.load_sample\('smollm2'\) opens one"):
            call("smollm2", [ml.MuSe()])
    with pytest.raises(TypeError, match="methods has 'MuSe'; attention methods such as"):
        ml.compare(sample, ["MuSe"])
    with pytest.raises(ValueError, match=r"layers has 99, which was not captured; there are \[3, 15, 28\]"):
        ml.compare(sample, [ml.MuSe()], layers=[99])
    with pytest.raises(ValueError, match=r"layer 99 was not captured; this sample has layers \[3, 15, 28\]"):
        sample[99]


def test_a_python_prompt_shows_the_same():
    """In a pipe, as after ``python -i`` in an editor: 80 columns, whatever the machine."""
    code = (
        "import multipole_lab as ml\n"
        "sample = ml.load_sample('smollm2').crop(64)\n"
        "sample\nsample[15]\nml.MuSe(order='dipole')\nml.kmeans(sample[15].k, clusters=8)\nml.MultipoleCache()\n"
        "ml.compare(sample, [ml.MuSe(clusters=8), ml.Window(size=8)], repeats=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-i", "-q"], input=code, capture_output=True, text=True, timeout=240, cwd=ROOT
    )
    lines = done.stdout.splitlines()
    assert "Traceback" not in done.stderr, done.stderr
    assert [line.partition("(")[0] for line in lines[:5]] == [
        "Sample", "LayerSample", "MuSe", "Clusters", "MultipoleCache",
    ]  # fmt: skip
    assert lines[5].split() == ["method", "layer", "rse", "worst_head", "seconds", "exact_seconds", "speedup"]
    assert max(map(len, lines)) <= 80
    assert "..." not in done.stdout
