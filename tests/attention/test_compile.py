"""torch.compile: one graph for every length, of one node for a method's call, however many blocks it has."""

import pytest
import torch
from every_method import METHODS

import multipole_lab as ml

LENGTHS = 40, 52, 77  # leaves of 8: three levels and four
full_and_causal = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def qkv(N, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(2, heads, N, 8, generator=g, requires_grad=True) for heads in (4, 2, 2)]


def with_gradients(attend, q, k, v, mask):
    out, lse = attend(q, k, v, mask)
    lse = lse.masked_fill(lse == -torch.inf, 0.0)
    g = torch.Generator().manual_seed(1)
    upstream = [torch.randn(x.shape, generator=g) for x in (out, lse)]
    return [out, lse, *torch.autograd.grad((out, lse), (q, k, v), upstream)]


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@full_and_causal
@every_method
def test_a_new_length_needs_no_new_graph(method, causal):
    """The first length has a graph of its own; the second makes one for all others. Neither grows with the length."""
    graphs = []

    def noting(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes if "multipole_lab" in str(node.target)])
        return graph

    def attend(q, k, v):
        return method(q, k, v, causal=causal)

    compiled = torch.compile(attend, fullgraph=True, backend=noting)
    for N in LENGTHS:
        torch.testing.assert_close(compiled(*qkv(N)), attend(*qkv(N)))
    assert len(graphs) == 2
    assert graphs[0] == graphs[1]
    assert len(graphs[0]) == 1


@full_and_causal
@every_method
def test_compiled_is_eager(method, causal):
    """Forward and backward, with padding: inside the operator the host may look at it."""

    def attend(q, k, v, mask):
        return method(q, k, v, causal=causal, mask=mask, return_lse=True)

    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[0, :9], mask[1, 30:] = False, False
    inputs = *qkv(40), mask
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for name, got, want in zip(
        ("out", "lse", "dq", "dk", "dv"), with_gradients(compiled, *inputs), with_gradients(attend, *inputs),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(got, want, msg=lambda m, name=name: f"{name}: {m}")


def test_lengths_are_checked_when_the_graph_runs():
    method, graphs = ml.MuSe(clusters=3, leaf=8), []

    def noting(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(
        lambda q, k, v, n: method(q, k, v, causal=True, lengths=n), fullgraph=True, backend=noting
    )
    for N in LENGTHS:
        lengths = torch.tensor([N, N - 9])
        expected = method(*qkv(N), causal=True, lengths=lengths)
        torch.testing.assert_close(compiled(*qkv(N), lengths), expected)
    assert len(graphs) == 2
    for wrong in ([78, 1], [1, -1]):
        with pytest.raises(RuntimeError, match="lengths has values below 0 or above Nk"):
            compiled(*qkv(77), torch.tensor(wrong))


def test_another_method_is_another_graph():
    """What a method is made of is part of its node, and a change of it is seen."""

    def attend(method, q, k, v):
        return method(q, k, v, causal=True)

    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    for method in (ml.MuSe(clusters=3, leaf=8), ml.MuSe(clusters=5, leaf=16, cap=2.5), ml.Window(size=6)):
        assert torch.equal(compiled(method, *qkv(40)), attend(method, *qkv(40)))


class Halved(ml.Exact):
    """A method of somebody else's."""

    def _full(self, q, k, v, scale, mask):
        return super()._full(q, k, v, scale / 2, mask)


def test_methods_of_others_compile_too():
    class Local(Halved):
        pass

    for method in (Halved(), Local()):
        compiled = torch.compile(
            lambda q, k, v, method=method: method(q, k, v), fullgraph=True, backend="eager"
        )
        torch.testing.assert_close(compiled(*qkv(40)), ml.Exact()(*qkv(40), scale=8**-0.5 / 2))


def test_no_second_derivative_passes_in_silence():
    q, k, v = qkv(40)
    compiled = torch.compile(
        lambda q, k, v: ml.MuSe(clusters=3)(q, k, v), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(RuntimeError):
        torch.autograd.grad(compiled(q, k, v).square().sum(), q, create_graph=True)[0].sum().backward()
