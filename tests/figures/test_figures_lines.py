"""Curves and fields: what is drawn where."""

import numpy as np
import pytest

from multipole_lab import figures
from multipole_lab.bench.recorded import attention_speedups, record, records
from multipole_lab.figures.common import theme

CURVES = {"near": ((16, 64, 256), (0.1, 0.2, 0.4)), "dropped": ([16, 64], np.array([0.3, 0.9]))}


def drawn(**choices):
    return figures.lines(CURVES, "Found", "Read", x="budget", y="error", **choices)


def test_a_logarithmic_height_has_a_tick_for_every_power_of_ten():
    def ticks(*heights):
        return figures.lines(
            {"a": (range(len(heights)), heights)}, "Found", x="x", y="y", log="y"
        ).layout.yaxis

    assert ticks(0.27, 3, 79).ticktext == ("0.1", "1", "10", "100")
    assert ticks(9e-4, 0.3).ticktext == ("0.0001", "0.001", "0.01", "0.1", "1")
    assert ticks(1e-6, 0.1).ticktext[0] == "10<sup>-6</sup>"
    assert len(ticks(1e-30, 1).tickvals) < 10
    few = ticks(0.3, 3).ticktext  # plotly's own would be 3 4 5 6 7 8 9 1 2 3
    assert few == ("0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50")
    assert ticks(0, 0).tickvals is None


def test_lines_draws_every_point_of_every_curve_with_a_symbol_of_its_own():
    figure = drawn(log="xy", colours={"dropped": theme.VERMILION}, notes={"near": ["a", "b", "c"]}, rule=1)
    near, dropped = figure.data
    assert (near.name, tuple(near.x), tuple(near.y), tuple(near.text)) == (
        "near",
        *CURVES["near"],
        tuple("abc"),
    )
    assert list(dropped.x) == [16, 64]
    assert list(dropped.y) == [0.3, 0.9]
    assert dropped.text is None
    assert near.marker.symbol != dropped.marker.symbol
    assert dropped.line.color == theme.VERMILION
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert list(figure.layout.xaxis.ticktext) == ["16", "64", "256"]
    assert figure.layout.shapes[0].y0 == 1
    assert "Found" in figure.layout.title.text
    assert figure.layout.xaxis.title.text == "budget"


def test_lines_puts_long_names_below_and_short_ones_above():
    assert drawn().layout.legend.yanchor == "bottom"
    names = {f"recorded on some day on some machine, {i}": CURVES["near"] for i in range(9)}
    figure = figures.lines(names, "Found", x="x", y="y")
    assert figure.layout.legend.yanchor == "top"
    assert figure.layout.height > drawn().layout.height


def test_lines_has_plain_ticks_where_not_every_length_has_room():
    few = figures.lines({"a": ((0.01, 0.017), (1, 2))}, "Found", x="x", y="y", log="x").layout.xaxis
    assert few.ticktext == ("0.01", "0.02", "0.05", "0.1", "0.2", "0.5")
    lengths = [2**i for i in range(10, 21)]
    many = figures.lines({"a": (lengths, lengths)}, "Found", x="x", y="y", log="x").layout.xaxis
    assert many.ticktext == ("1,024", "4,096", "16,384", "65,536", "262,144", "1,048,576")


def test_lines_without_curves_is_a_figure_that_says_so():
    figure = figures.lines({}, "Nothing recorded", x="x", y="y", log="xy", rule=1)
    assert not figure.data
    assert "Nothing recorded" in figure.layout.title.text


def test_lines_names_the_argument_that_is_wrong():
    with pytest.raises(ValueError, match="log is 'z'; allowed are"):
        drawn(log="z")
    with pytest.raises(ValueError, match=r"series\['a'\] has 2 x values and 1 y values"):
        figures.lines({"a": ((1, 2), (1,))}, "Found", x="x", y="y")


def test_fields_draws_powers_of_ten_and_the_charges_by_their_sign():
    axis = np.array([-1.0, 0.0, 1.0])
    errors = {"one": np.full(9, -0.1), "two": np.zeros(9)}
    figure = figures.fields(axis, errors, np.array([[0.5, 0.2], [0.1, -0.3]]), np.array([1.0, -2.0]))
    one, dots, two, _ = figure.data
    np.testing.assert_allclose(one.z, np.full((3, 3), -1.0), atol=1e-4)
    np.testing.assert_allclose(two.z, np.full((3, 3), -6.0))  # an exact field has a colour, too
    assert list(dots.x) == [0.5, 0.1]
    assert list(dots.marker.color) == [theme.VERMILION, theme.SKY]


def test_records_are_found_by_name_and_a_wrong_name_lists_them():
    assert record("training-tiny")["seeds"]
    with pytest.raises(FileNotFoundError, match=r"no record 'nothing'; there are .*training-tiny"):
        record("nothing")


def test_no_two_records_have_one_name_whatever_their_folders():
    names = [path.stem for path in records()]
    assert len(set(names)) == len(names) > 30


def test_a_record_is_found_in_any_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("multipole_lab.bench.recorded.benchmarks_folder", lambda: tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "new.json").write_text('{"rows": []}')
    (tmp_path / "above.json").write_text('{"rows": [1]}')
    assert (record("new"), record("above")) == ({"rows": []}, {"rows": [1]})


def test_recorded_speedups_name_their_machine_and_have_an_error():
    table = attention_speedups()
    assert len(table)
    assert table["name"].str.fullmatch(r"\d+ heads of \d+, .*, near=\d+").all()
    assert table["recorded"].str.contains("^Recorded 20.*H100").all()
    ends = table.groupby("name", sort=False)["speedup"].last()
    assert ends.is_monotonic_decreasing  # the legend is in the order of the lines
    assert (table["rse"] > 0).all()
    assert (table["speedup"] > 0).all()
    assert not table.duplicated(["name", "n"]).any()


def test_without_records_there_are_no_rows(monkeypatch, tmp_path):
    monkeypatch.setattr("multipole_lab.bench.recorded.benchmarks_folder", lambda: tmp_path)
    assert list(attention_speedups().columns) == ["name", "n", "speedup", "rse", "recorded"]
    assert attention_speedups().empty
    with pytest.raises(FileNotFoundError, match="there are none"):
        record("anything")


@pytest.mark.parametrize("words", ["six seven eight nine", "two", "averyveryverylong word"])
def test_no_word_of_a_title_stands_alone_where_another_break_spares_it(words):
    finding = f"A finding of so many letters that it fills a line, and {words}"
    title = figures.lines(CURVES, finding, x="x", y="y").layout.title.text
    found = title.removeprefix("<b>").removesuffix("</b>").split("<br>")
    assert " ".join(found) == finding
    assert len(found) > 1
    assert all(len(line) <= 52 for line in found)
    assert " " in found[-1]


def test_no_name_of_a_curve_is_wider_than_a_narrow_picture():
    curves = {
        name: ([1, 2], [1, 2])
        for name in ("short", "8 heads of 64, runs, near=0: " + "recorded on a machine " * 3)
    }
    figure = figures.lines(curves, "Found", x="x", y="y")
    short, long = (trace.name.split("<br>") for trace in figure.data)
    assert short == ["short"]
    assert max(map(len, long)) <= 52
    assert long[0].startswith("8 heads of 64, runs")
    two_lines = figures.lines(
        dict.fromkeys(("short", "x" * 49), ([1], [1])), "Found", x="x", y="y"
    ).layout.height
    assert two_lines == figure.layout.height - 22


def test_a_word_alone_is_one_line_and_no_words_are_none():
    assert theme.heading_height("Found") == theme.heading_height("Found", "") == 42
