"""Calls that repeat as CUDA graphs: which calls they stand for, and that nobody's result is written to again."""

from types import SimpleNamespace

import pytest
import torch
from equal_bits import equal_bits

import multipole_lab as ml
from multipole_lab.attention.calls.replay import SHAPES, Replays, replayed
from multipole_lab.clustering import seeding

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are of a CUDA device")


class Recorded:
    """What a captured call is to `Replays`, without a device: it runs the function again into memory of its own."""

    bytes = 100

    def __init__(self, function, tensors):
        self.function, self.outputs, self.calls = function, [x.clone() for x in function(*tensors)], 0
        self.given_back, self.done = False, self

    def synchronize(self):
        self.given_back = True

    def __call__(self, tensors):
        self.calls += 1
        for x, new in zip(self.outputs, self.function(*tensors), strict=True):
            x.copy_(new)
        return tuple(x.clone() for x in self.outputs)


class Anywhere(Replays):
    """Of CPU tensors too, with room for two graphs."""

    def __init__(self, capture=Recorded):
        super().__init__(capture)

    def may_replay(self, tensors):
        return True

    @staticmethod
    def room(device):
        return 250


def double(x):
    return (2 * x,)


def test_the_second_call_of_a_shape_is_captured_and_results_are_their_owners():
    replays, x = Anywhere(), torch.arange(3.0)
    results = [replays("double", double, x + i)[0] for i in range(4)]
    assert [r.tolist() for r in results] == [[2.0 * (i + j) for j in range(3)] for i in range(4)]
    (graph,) = replays.graphs.values()
    assert graph.calls == 3
    replays("double", double, torch.ones(5))
    assert len(replays.graphs) == 1


def test_where_torch_is_asked_for_equal_bits_is_another_graph():
    replays, x = Anywhere(), torch.arange(3.0)
    for equal in (False, True):
        with equal_bits(equal):
            for _ in range(3):
                replays("double", double, x)
    assert [graph.calls for graph in replays.graphs.values()] == [2, 2]


def test_another_name_or_dtype_is_another_graph():
    replays, x = Anywhere(), torch.ones(3)
    for _ in range(2):
        replays("double", double, x)
        replays("again", lambda x: (3 * x,), x)
    assert replays("again", double, x)[0].tolist() == [3.0] * 3
    for _ in range(2):
        assert replays("double", double, x.double())[0].dtype == torch.float64


def test_what_cannot_be_captured_runs_as_it_is_written_and_is_not_tried_again():
    tried = []

    def refuse(function, tensors):
        tried.append(function)
        raise RuntimeError("operation not permitted when stream is capturing")

    replays = Anywhere(refuse)
    assert [replays("double", double, torch.ones(1))[0].item() for _ in range(4)] == [2.0] * 4
    assert len(tried) == 1


def test_the_oldest_graphs_are_given_back_where_all_would_hold_too_much():
    replays = Anywhere()
    made = []
    for n in range(1, 5):
        for _ in range(2):
            replays("double", double, torch.ones(n))
        made.append(next(reversed(replays.graphs.values())))
    assert [graph.given_back for graph in made] == [True, True, False, False]


def test_what_would_not_find_room_is_not_captured():
    replays = Anywhere()
    for _ in range(3):
        replays("double", double, torch.ones(100))
    assert not replays.graphs


def test_lengths_that_never_repeat_are_forgotten():
    replays = Anywhere()
    for n in range(1, SHAPES + 50):
        replays("double", double, torch.ones(n))
    assert len(replays.seen) == SHAPES


def test_tensors_on_a_cpu_are_left_alone():
    assert not replayed.may_replay((torch.ones(1),))


def test_a_graph_stands_for_no_dual_number(monkeypatch):
    """Their tangents would be lost in silence; the call itself refuses them or knows them."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    on_gpu = (SimpleNamespace(is_cuda=True),)
    assert replayed.may_replay(on_gpu)
    with torch.autograd.forward_ad.dual_level():
        assert not replayed.may_replay(on_gpu)


def test_places_that_a_graph_reads_outlast_the_cache(monkeypatch):
    key = 100, 4, "random", 0, torch.device("cpu")
    held = seeding.start_places(*key)
    monkeypatch.setitem(seeding._IN_GRAPHS, key, held)
    seeding._drawn.cache_clear()
    assert seeding.start_places(*key) is held


def heads(*shape, seed=0):
    g = torch.Generator("cuda").manual_seed(seed)
    return [torch.randn(*shape, device="cuda", dtype=torch.bfloat16, generator=g) for _ in range(3)]


@gpu
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("method", [ml.MuSe(near=2), ml.MuSe(cap=None), ml.MuSe(partition="runs")], ids=str)
def test_replayed_calls_are_those_of_the_kernels(method, causal):
    kept = []
    for seed in range(4):
        q, k, v = heads(2, 4, 1500, 64, seed=seed)
        out = method(q, k, v, causal=causal)
        with ml.without_graphs():
            assert torch.equal(out, method(q, k, v, causal=causal))
        kept.append((out, out.clone()))
    assert all(torch.equal(a, b) for a, b in kept)


@gpu
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_the_kernels(causal):
    q, k, v = (x.requires_grad_() for x in heads(1, 4, 2100, 64))
    upstream = torch.randn_like(q)
    grads = [torch.autograd.grad(ml.MuSe()(q, k, v, causal=causal), (q, k, v), upstream) for _ in range(3)]
    with ml.without_graphs():
        plain = torch.autograd.grad(ml.MuSe()(q, k, v, causal=causal), (q, k, v), upstream)
    for found in grads:
        for got, wanted in zip(found, plain, strict=True):
            torch.testing.assert_close(got, wanted)


@gpu
def test_streams_and_inference_mode_share_a_graph():
    q, k, v = heads(1, 4, 2000, 64)
    for _ in range(3):
        ml.MuSe()(q, k, v)
    streams, found = [torch.cuda.Stream() for _ in range(3)], []
    torch.cuda.synchronize()
    for i in range(12):
        with torch.cuda.stream(streams[i % 3]), torch.inference_mode():
            found.append(ml.MuSe()(q * (1 + i / 16), k, v))
    torch.cuda.synchronize()
    with ml.without_graphs():
        assert all(torch.equal(out, ml.MuSe()(q * (1 + i / 16), k, v)) for i, out in enumerate(found))
