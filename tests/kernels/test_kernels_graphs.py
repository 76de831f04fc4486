"""How a CUDA graph is captured, as far as it shows without a device."""

import contextlib
import gc

import pytest
import torch

from multipole_lab.kernels.common import graphs
from multipole_lab.kernels.common.graphs import beside, captured, in_branches, moment, moments
from multipole_lab.kernels.decode.work import Work


class Stream:
    """Notes whom it waits for."""

    def __init__(self, *_, priority=0):
        self.waited, self.priority = [], priority

    def wait_stream(self, other):
        self.waited.append(other)


class Graph:
    """Notes how it was captured."""

    def capture_begin(self, pool, capture_error_mode):
        self.began, self.collected = (pool, capture_error_mode), gc.isenabled()

    def capture_end(self):
        self.ended = True

    def pool(self):
        return 0, 7


@pytest.fixture
def device(monkeypatch):
    """A device's streams and graphs that only take notes; the current stream is returned."""
    now, zeros = Stream(), torch.zeros
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: now)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch, "zeros", lambda n, device: zeros(n))
    return now


def test_a_capture_stands_between_the_work_before_and_after(device):
    aside = Stream()
    graph, result = captured(lambda: "result", aside)
    assert result == "result"
    assert graph.began == (None, "thread_local")
    assert graph.ended
    assert not graph.collected
    assert gc.isenabled()
    assert (aside.waited, device.waited) == ([device], [aside])


def test_a_capture_that_fails_is_ended(device, monkeypatch):
    ended = []
    monkeypatch.setattr(Graph, "capture_end", lambda self: ended.append(self))

    def waits():
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        captured(waits, Stream())
    assert len(ended) == 1
    assert gc.isenabled()


def test_steps_share_a_pool_that_one_graph_keeps(device):
    work = Work()
    first, second = (work.captured(lambda: 1)[0] for _ in range(2))
    assert first.began == second.began == ((0, 7), "thread_local")
    assert work._keeper.began == (None, "thread_local")


def test_a_branch_begins_after_what_was_and_ends_before_who_asks_for_its_result(device, monkeypatch):
    streams = []
    monkeypatch.setattr(graphs, "_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: streams.append(s) or contextlib.nullcontext())
    wait = beside(lambda: "result", urgent=True)
    (branch,) = streams
    assert (branch.waited, branch.priority, device.waited) == ([device], -1, [])
    assert wait() == "result"
    assert device.waited == [branch]


def test_branches_inside_one_that_is_urgent_are_urgent(device, monkeypatch):
    streams, device.priority = [], -1
    monkeypatch.setattr(graphs, "_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: streams.append(s) or contextlib.nullcontext())
    assert in_branches([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]
    assert [s.priority for s in streams] == [-1, -1]
    assert device.waited == streams


def test_outside_of_a_capture_a_call_is_made_at_once():
    made = []
    wait = beside(lambda: made.append(1) or 7)
    assert made == [1]
    assert wait() == 7


def test_moments_of_a_capture_are_those_marked_within_the_context(device, monkeypatch):
    recorded = []
    event = type("Event", (), {"record": lambda self: recorded.append(self)})
    monkeypatch.setattr(torch.cuda, "Event", event)
    with moments() as marked:
        moment()
        assert marked == []  # nothing is captured
        monkeypatch.setattr(graphs, "_capturing", lambda: True)
        moment()
        moment()
    moment()  # nobody asks
    assert marked == recorded
    assert len(marked) == 2
