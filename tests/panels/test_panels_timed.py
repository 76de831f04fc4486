"""Panels that measure: of what load, on which machine, how often, and what is said where memory ends."""

import importlib
import re

import fake_gpu
import numpy as np
import pytest
import torch
from every_panel import titled
from random_sample import random_sample

from multipole_lab import panels
from multipole_lab.measure.inputs import Load
from multipole_lab.measure.lengths import Pace
from multipole_lab.search.candidates import Cost

pytestmark = pytest.mark.usefixtures("few_candidates")


@pytest.fixture(scope="module")
def sample():
    return random_sample(512, layers=(1, 2, 3))


def test_the_speed_panel_measures_every_length_on_this_machine(sample):
    panel = panels.speed(sample)
    table = panel.table()
    assert table["length"] == [256, 512]
    assert all(ms > 0 for ms in table["exact_ms"] + table["approx_ms"])
    assert "At 512 tokens" in titled(panel)
    assert panel.machine in titled(panel)
    bars = [float(seconds) for seconds in re.findall(r"animation-duration: ([\d.]+)s", panel._race.value)]
    wanted = np.array([table["exact_ms"][-1], table["approx_ms"][-1]])
    np.testing.assert_allclose(bars, 3 * wanted / wanted.max(), atol=0.01)  # they fill as the times are
    assert "512 tokens, slowed down" in panel._race.value


def test_the_speed_panel_keeps_what_it_has_where_memory_ends(sample, monkeypatch):
    def paces(layer, lengths, *_, load, **__):
        assert (load.heads, load.batch, load.causal) == (8, 4, True)
        yield Pace(lengths[0], 2.0, 1.0, 0.1, "flash")
        raise torch.OutOfMemoryError

    monkeypatch.setattr(importlib.import_module("multipole_lab.panels.speed"), "time_lengths", paces)
    panel = panels.speed(sample.crop(256))
    panel.set(context=1024, heads=8, batch=4, sight="causal")
    assert "At 256 tokens MuSe is 2.0 times faster" in titled(panel)
    assert "Causal, 32 heads of 4 texts" in titled(panel)
    assert "no memory for longer ones" in titled(panel)


def test_the_front_measures_the_load_that_was_chosen_and_says_where_tokens_were_drawn_again(
    sample, monkeypatch
):
    def costs(layer, length, chosen, load, *_, **__):
        asked.append((length, load))
        return (Cost(i, 1.0, 2.0, 0.1) for i in range(len(chosen)))

    asked = []
    monkeypatch.setattr(importlib.import_module("multipole_lab.panels.front"), "measure", costs)
    monkeypatch.setattr("multipole_lab.panels.common.timed.chosen_device", lambda _: "cuda")
    fake_gpu.pretend(monkeypatch)
    panel = panels.front(sample)
    panel.set(context=4096, heads=8, batch=4, attention="causal")
    assert asked[-1] == (4096, Load(8, 4, True))
    assert "Causal, 32 heads of 4 texts, tokens drawn again from 512, which flatters errors" in titled(panel)
    panel.set(context=512)
    assert "flatters" not in titled(panel)


def test_a_busy_computer_is_named_beside_its_times(sample, monkeypatch):
    for load, words in ((0.5, False), (1000.0, True)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, load, load))
        assert ("computer is busy" in titled(panels.speed(sample.crop(256)))) == words


def test_the_cost_panel_measures_prices_once_and_moves_at_once(sample, monkeypatch):
    module = importlib.import_module("multipole_lab.panels.cost")
    measured, measure = [], module.measure_prices
    monkeypatch.setattr(module, "measure_prices", lambda *args: measured.append(args) or measure(*args))
    panel = panels.cost(sample)
    assert "beyond, the time is worked out" in titled(panel)
    before = panel.table()
    panel.set(batch=2)
    after = panel.table()
    assert after["multiply_adds"] == [2 * x for x in before["multiply_adds"]]
    panel.set(method="TopK", budget=64)
    assert panel.table()["method"] == ["Exact()", "TopK(keys=64)"]
    assert len(measured) == 1
    panel.set(attention="full")
    assert len(measured) == 2
    assert "1 thread" in panel.machine


def test_the_front_panel_measures_once_and_moves_its_budget_at_once(sample):
    panel = panels.front(sample)
    panel.set(context=256)
    table = panel.table()
    assert len(table["method"]) == len(set(table["method"])) == 3
    panel.controls["budget"].value = 200
    assert "200% of exact attention's time" in titled(panel)
    assert panel.table() == table
    panel.controls["layer"].value = 3
    assert panel.table()["rse"] != table["rse"]


def test_the_roofline_panel_measures_this_machine_and_names_it():
    panel = panels.roofline()
    panel.set(device="this machine")
    assert panel.message == ""
    assert "measured just now" in titled(panel)
