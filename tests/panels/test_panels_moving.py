"""Moves inside a running event loop, as in Jupyter: which of them are computed, and what is marked as busy."""

import asyncio
import time
from types import SimpleNamespace

import numpy as np
import pytest

import multipole_lab as ml
from multipole_lab import panels
from multipole_lab.panels.common import work


@pytest.fixture(scope="module")
def sample():
    return ml.load_sample("smollm2").crop(512)


def test_inside_an_event_loop_only_the_last_of_many_moves_is_computed(sample):
    async def hurry():
        panel = panels.clusters(sample)
        computed = []
        compute = panel.compute
        panel.compute = lambda **state: computed.append(state["clusters"]) or compute(**state)
        for clusters in (2, 4, 8, 16, 32):
            panel.controls["clusters"].value = clusters
        await asyncio.sleep(0.5)
        return computed, panel._shown.layout.title.text

    computed, title = asyncio.run(hurry())
    assert computed == [32]
    assert "become 32" in title


def test_a_single_move_after_a_rest_does_not_wait_where_a_picture_is_quick(sample, monkeypatch):
    monkeypatch.setattr(work, "_SETTLE_SECONDS", 60)
    monkeypatch.setattr(work, "_QUICK_SECONDS", 60)

    async def move():
        panel = panels.clusters(sample)
        panel.controls["clusters"].value = 8
        panel._flush()
        titles = []
        for wait in (0.4, 0):  # after a rest; in a row of moves
            await asyncio.sleep(wait)
            panel.controls["clusters"].value *= 2
            await asyncio.sleep(0.1)
            titles.append(panel._shown.layout.title.text)
        return titles

    first, second = asyncio.run(move())
    assert "become 16" in first
    assert first == second


@pytest.mark.parametrize("seconds", [0.0, 0.15])
def test_a_dragged_slider_redraws_on_its_way_where_that_is_quick_and_is_marked_busy_elsewhere(
    seconds, sample, monkeypatch
):
    # counts what the picture is said to take: a busy computer makes no picture slow
    clock = [time.perf_counter()]
    monkeypatch.setattr(work, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(work, "_SETTLE_SECONDS", 2.0 if seconds else 0.3)

    async def drag():
        panel = panels.clusters(sample)
        compute, computed, busy = panel.compute, [], []

        def slow(**state):
            computed.append(state["clusters"])
            busy.append("ml-working" in panel._dom_classes)
            clock[0] += seconds
            return compute(**state)

        panel.compute = slow
        panel._work.moves, panel._work.started = 1, clock[0] - seconds
        panel._work.ended()  # the move before took that long
        for clusters in (2, 4, 8, 16, 32):  # each before the panel has settled from the last one
            panel.controls["clusters"].value = clusters
            await asyncio.sleep(0.1)
        while not panel._work.done:
            await asyncio.sleep(0.05)
        return computed, busy, panel

    computed, busy, panel = asyncio.run(asyncio.wait_for(drag(), 60))
    assert computed[-1] == 32
    assert (len(computed) > 1) == (seconds == 0)
    assert all(marked == (seconds > 0) for marked in busy)
    assert "ml-working" not in panel._dom_classes


def test_inside_an_event_loop_long_work_is_dropped_when_a_control_moves(sample):
    async def interrupt():
        panel = panels.error(sample)
        panel.figure()
        done = []
        attend = panel._attend
        panel._approx = lambda **choices: done.append(choices["clusters"]) or attend(**choices)
        panel.controls["clusters"].value = 8
        await asyncio.sleep(0.05)
        panel.controls["clusters"].value = 16
        panel.figure()
        await asyncio.sleep(0.2)
        return done, panel.state()["clusters"], panel.table()

    done, clusters, table = asyncio.run(interrupt())
    assert clusters == 16
    assert done[-1] == 16
    assert 8 not in done[done.index(16) :]
    assert not np.isnan(table["relative_squared_error"]).any()
