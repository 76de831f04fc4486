"""The roofline: marks stand on the roof, times follow, and what was recorded says when and where."""

import itertools
import json

import numpy as np
import pytest
import torch

from multipole_lab import figures
from multipole_lab.bench.kernels.work import DEVICES, Work, kernel_work, measure_device, recorded

MOVED, OPERATIONS = np.array([1e9, 1e9, 2e9]), np.array([1e9, 1e12, 2e12])


def draw(**more):
    return figures.roofline(
        ["a", "b", "c"], MOVED, OPERATIONS, tflops=100, gbps=1000, device="a test GPU", **more
    )


def test_a_mark_stands_on_the_roof_and_says_what_it_waits_for():
    roof, memory, arithmetic = draw().data[:3]
    assert list(memory.text) == ["a"]
    assert memory.y == pytest.approx([1.0])  # 1 operation a byte at 1000 GB/s is 1 TFLOP/s
    assert list(arithmetic.text) == ["b", "c"]
    assert arithmetic.y == pytest.approx([100, 100])
    assert roof.x[1] == pytest.approx(100)  # the ridge: 100 TFLOP/s over 1000 GB/s
    assert roof.y[1:] == pytest.approx([100, 100])


def test_bars_are_the_least_times_longest_on_top():
    bars = draw().data[4]
    assert list(bars.y) == ["a", "b", "c"]
    assert bars.x == pytest.approx([1, 10, 20])


def test_the_title_counts_what_waits_for_memory():
    text = draw(source="a leaflet").layout.title.text.replace("<br>", " ")
    assert "1 of 3 kernels wait for memory on a test GPU" in text
    assert "less than 100 operations a byte" in text
    assert "a leaflet" in text


def test_recorded_points_are_labelled_with_device_and_day():
    fig = draw(recorded_names=["b"], recorded_intensity=np.array([1000.0]), recorded_tflops=np.array([60.0]),
               recorded="a test GPU, 2026-01-02")  # fmt: skip
    crosses = fig.data[3]
    assert crosses.name == "recorded: a test GPU, 2026-01-02"
    assert list(crosses.y) == [60]
    assert not draw().data[3].showlegend


def test_every_kernel_and_exact_attention_are_counted():
    short, long = ({work.name: work for work in kernel_work(tokens=n)} for n in (1024, 2048))
    assert {"evaluate", "summarise", "leaf", "exact attention"} <= set(short)
    assert long["exact attention"].operations == 4 * short["exact attention"].operations
    assert all(work.moved > 0 and work.operations > 0 for work in long.values())


def test_the_least_time_is_the_slower_of_both():
    device = DEVICES[0]
    assert Work("x", device.gbps * 1e9, 1).seconds(device) == pytest.approx(1)
    assert Work("x", 1, device.tflops * 2e12).seconds(device) == pytest.approx(2)


def test_this_machine_is_measured_and_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device = measure_device()
    assert device.tflops > 0
    assert device.gbps > 0
    assert "measured just now" in device.source


def test_only_rows_of_kernels_are_read_from_the_records(tmp_path):
    row = {"kernel": "evaluate", "ms": 2.0, "bytes": 10, "operations": 20}
    record = {"device": "a test GPU", "date": "2026-01-02", "rows": [row, {"n": 1}, "words"]}
    (tmp_path / "kernels.json").write_text(json.dumps(record))
    (tmp_path / "other.json").write_text('{"rows": 3}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    (one,) = recorded(tmp_path)
    assert (one.work, one.seconds, one.device, one.date) == (
        Work("evaluate", 10.0, 20.0), 0.002, "a test GPU", "2026-01-02",
    )  # fmt: skip
    assert list(recorded(tmp_path / "missing")) == []


def test_every_recorded_kernel_is_one_that_there_is():
    """Old records keep the names of their day, and are read with those of today."""
    found = {one.work.name for one in recorded()}
    assert found
    assert found <= {work.name for work in kernel_work()}


def test_more_clusters_than_keys_are_refused():
    with pytest.raises(ValueError, match="1,024 clusters of 512 keys"):
        kernel_work(tokens=512, clusters=1024)


def test_marks_are_named_where_there_is_room():
    x = np.array([0.0, 1.0, 1.5, 10.0, 1e4, 2e4])
    fig = figures.roofline(list("abcdef"), np.ones(6), x, 1000.0, 1000.0, "a test GPU")
    (words,) = (trace for trace in fig.data if trace.name == "names")
    assert list(words.text) == ["d", "c", "a", "f"]


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize("tokens", [1024, 8192, 131_072])
@pytest.mark.parametrize("near", [0, 8])
def test_names_are_whole_and_apart_in_a_narrow_window(device, tokens, near):
    work = kernel_work(tokens=tokens, near=near)
    moved, operations = (np.array([getattr(one, what) for one in work]) for what in ("moved", "operations"))
    names = [one.name for one in work]
    fig = figures.roofline(names, moved, operations, device.tflops, device.gbps, device.name)
    (words,) = (trace for trace in fig.data if trace.name == "names")
    begin, end = np.log10(fig.data[0].x[[0, -1]])
    decade = 343 / (end - begin)  # pixels, in a window of 900
    spans = {}
    for name, x, position in zip(words.text, np.log10(words.x), words.textposition, strict=True):
        width = 5.5 * len(name)  # of letters of 10 pixels
        right = decade * (x - begin) + (0 if position == "top left" else width / 2)
        spans[name] = position, right - width, right
    assert min(left for _, left, _ in spans.values()) > 0
    assert max(right for *_, right in spans.values()) < 343
    above = sorted(span[1:] for span in spans.values() if span[0] == "top center")
    assert all(a[1] < b[0] for a, b in itertools.pairwise(above))
    assert "exact attention" in spans
