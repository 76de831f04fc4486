"""Every method, over drawn shapes, dtypes, partitions and degenerate data: finite, within bounds, never hanging.

Two bounds hold whatever the data. A monopole's output is a mean of values, so it lies within their range. And no
log-sum-exp is above the exact one: dropped keys only lower it, and a summary is a tangent of a convex function.
"""

import math
import signal

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn.functional import scaled_dot_product_attention

import multipole_lab as ml
from multipole_lab.testing import oracle

settings.register_profile("properties", derandomize=True, deadline=None, max_examples=25, database=None)
thoroughly = settings(settings.get_profile("properties"))

POISON = [math.nan, math.inf, -math.inf]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def nothing_hangs():
    """A loop that never ends is a failure, and not a test run without end."""

    def late(*_):
        raise TimeoutError("the test took more than two minutes")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@st.composite
def summaries(draw, keys, orders=("monopole", "dipole")):
    """MuSe or Centroid with every field drawn."""
    clusters = draw(st.integers(1, keys))
    common = {
        "clusters": clusters,
        "cap": draw(st.sampled_from([1.0, 1.5, 4.0])),
        "iterations": draw(st.integers(0, 2)),
        "partition": draw(st.sampled_from(["kmeans", "balanced", "runs"])),
        "leaf": draw(st.integers(1, 16)),
        "sinks": draw(st.integers(0, 3)),
        "seed": draw(st.integers(0, 99)),
        "backend": "torch",
    }
    if draw(st.booleans()):
        budget, recent = draw(st.integers(0, keys + 3)), draw(st.integers(0, 5))
        return ml.Centroid(**common, budget=budget, recent=recent)
    rank = draw(st.sampled_from([None, 1, 3, 50]))
    order, near = draw(st.sampled_from(orders)), draw(st.integers(0, clusters + 2))
    return ml.MuSe(**common, order=order, dipole_rank=rank, near=near)


@st.composite
def methods(draw, keys, orders=("monopole", "dipole")):
    """Any method."""
    kind = draw(st.sampled_from(["summary", "summary", "summary", "Exact", "Window", "TopK"]))
    if kind == "Window":
        return ml.Window(size=draw(st.integers(1, keys + 2)), sinks=draw(st.integers(0, 3)))
    if kind == "TopK":
        return ml.TopK(keys=draw(st.integers(1, keys + 2)))
    return ml.Exact() if kind == "Exact" else draw(summaries(keys, orders))


@st.composite
def tensors(draw, square=False, dtypes=tuple(DTYPES)):
    """q, k and v with grouped heads, Dv != D and Nq != Nk, and whether to attend causally."""
    B, Hk, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    Nk, D, Dv = draw(st.integers(1, 40)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    causal = draw(st.booleans())
    Nq = Nk if square else draw(st.integers(1, Nk if causal else 40))
    g = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    shapes = (B, Hk * group, Nq, D), (B, Hk, Nk, D), (B, Hk, Nk, Dv)
    dtype = draw(st.sampled_from(dtypes))
    return [torch.randn(shape, generator=g).to(dtype) for shape in shapes], causal


def exact(q, k, v, causal=False, mask=None):
    """The formula in float64: output, log-sum-exp and the largest logit."""
    k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    q, s = q.double(), q.shape[-1] ** -0.5
    seen = oracle.visible(q.shape[2], k.shape[2], causal, None if mask is None else mask[:, None])
    return *oracle.exact(q, k, v, s, seen), (s * q @ k.mT).abs().max().item()


def check(method, q, k, v, causal, mask=None):
    """What always holds; returns what came out."""
    out, lse = method(q, k, v, causal=causal, mask=mask, return_lse=True)
    _, exact_lse, largest = exact(q, k, v, causal, mask)
    assert out.shape == (*q.shape[:-1], v.shape[-1])
    assert out.dtype == q.dtype
    assert lse.shape == q.shape[:-1]
    assert lse.dtype == (torch.float64 if q.dtype == torch.float64 else torch.float32)
    assert out.isfinite().all()
    assert not lse.isnan().any()
    rounding = max(1e-5, torch.finfo(q.dtype).eps)  # torch's kernel may round the logits to half precision
    assert (lse <= exact_lse + rounding * (1 + largest)).all()
    assert (lse[exact_lse == -torch.inf] == -torch.inf).all()
    assert (out[lse == -torch.inf] == 0).all(), "a query that sees no key"
    if getattr(method, "order", "monopole") == "monopole":
        values = v if mask is None else v.masked_fill(~mask[:, None, :, None], 0.0)
        bound = values.abs().amax(2, keepdim=True).repeat_interleave(q.shape[1] // v.shape[1], 1).double()
        assert (out.abs().double() <= bound * (1 + 8 * torch.finfo(q.dtype).eps) + 1e-6).all()
    return out, lse


def tolerance(dtype):
    eps = torch.finfo(dtype).eps
    return {"rtol": 8 * eps, "atol": max(8 * eps, 1e-5)}


@given(st.data())
@thoroughly
def test_ordinary_data(data):
    (q, k, v), causal = data.draw(tensors())
    check(data.draw(methods(k.shape[2])), q, k, v, causal)


@given(st.data())
@thoroughly
def test_padding_of_any_length(data):
    (q, k, v), causal = data.draw(tensors())
    lengths = data.draw(st.lists(st.integers(0, k.shape[2]), min_size=len(q), max_size=len(q)))
    method = data.draw(methods(k.shape[2]))
    mask = torch.arange(k.shape[2]) < torch.tensor(lengths)[:, None]
    out, lse = check(method, q, k, v, causal, mask)
    assert torch.equal(method(q, k, v, causal=causal, lengths=lengths), out)
    for b, n in enumerate(lengths):
        if n == 0:
            assert (out[b] == 0).all()
            assert (lse[b] == -torch.inf).all()


@given(st.data())
@thoroughly
def test_padding_may_hold_anything(data):
    (q, k, v), causal = data.draw(tensors())
    method = data.draw(methods(k.shape[2]))
    rows = data.draw(st.integers(0, 2 ** (len(q) * k.shape[2]) - 1))
    mask = torch.tensor([rows >> n & 1 for n in range(len(q) * k.shape[2])]).view(len(q), -1).bool()
    bad, zero = (
        [x.masked_fill(~mask[:, None, :, None], fill) for x in (k, v)]
        for fill in (data.draw(st.sampled_from(POISON)), 0.0)
    )
    out, lse = check(method, q, *zero, causal, mask)
    poisoned, poisoned_lse = method(q, *bad, causal=causal, mask=mask, return_lse=True)
    assert torch.equal(poisoned, out)
    assert torch.equal(poisoned_lse, lse)


def test_padding_of_nan_gets_no_gradient():
    q, k, v = (torch.randn(1, 1, 12, 4) for _ in range(3))
    k[:, :, 9:] = v[:, :, 9:] = math.nan
    inputs = [x.requires_grad_() for x in (q, k, v)]
    for method in (ml.Exact(), ml.MuSe(clusters=3, near=1), ml.Centroid(clusters=3, budget=4)):
        grads = torch.autograd.grad(method(q, k, v, lengths=[9]).sum(), inputs)
        assert all(grad.isfinite().all() for grad in grads)
        assert not any(grad[:, :, 9:].any() for grad in grads[1:])


@given(st.data())
@thoroughly
def test_equal_keys_give_the_mean_of_the_values(data):
    (q, k, v), causal = data.draw(tensors())
    k = k[:, :, :1].expand(k.shape)
    method = data.draw(summaries(k.shape[2]))
    out, lse = check(method, q, k, v, causal)
    expected, expected_lse, _ = exact(q, k, v, causal)
    torch.testing.assert_close(out.double(), expected, **tolerance(q.dtype))
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-4)


@given(st.data())
@thoroughly
def test_one_key_gives_its_value(data):
    (q, k, v), _ = data.draw(tensors())
    k, v = k[:, :, :1], v[:, :, :1]
    method = data.draw(methods(1))
    if isinstance(method, ml.Window):  # the queries are the last positions: one lies where the key is
        q = q[:, :, -1:]
    out, lse = check(method, q, k, v, False)
    expected, expected_lse, _ = exact(q, k, v)
    torch.testing.assert_close(out.double(), expected, **tolerance(q.dtype))
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-5)


@given(st.data())
@thoroughly
def test_one_query_is_its_own_centroid(data):
    """Expanded at the query itself, nothing is approximated, in any order."""
    (q, k, v), causal = data.draw(tensors())
    q = q[:, :, -1:]
    check(data.draw(methods(k.shape[2])), q, k, v, causal)
    muse = data.draw(summaries(k.shape[2]).filter(lambda method: isinstance(method, ml.MuSe)))
    out, lse = check(muse, q, k, v, causal)
    expected, expected_lse, _ = exact(q, k, v, causal)
    torch.testing.assert_close(out.double(), expected, **tolerance(q.dtype))
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-4)


@given(st.data())
@thoroughly
def test_more_clusters_than_distinct_keys(data):
    (q, k, v), causal = data.draw(tensors())
    distinct = data.draw(st.integers(1, 3))
    k = k[:, :, torch.arange(k.shape[2]) % min(distinct, k.shape[2])]
    method = data.draw(summaries(k.shape[2]))
    check(method, q, k, v, causal)
    check(method, q[:, :, torch.arange(q.shape[2]) % min(distinct, q.shape[2])], k, v, causal)


@given(st.data())
@thoroughly
def test_logits_of_ten_thousand(data):
    (q, k, v), causal = data.draw(tensors(dtypes=[torch.float32, torch.float64, torch.bfloat16]))
    _, _, largest = exact(q, k, v)
    q, k = (x * math.sqrt(1e4 / max(largest, 0.1)) for x in (q, k))
    method = data.draw(methods(k.shape[2]))
    out, lse = check(method, q, k, v, causal)
    assert lse.masked_fill(lse == -torch.inf, 0.0).abs().max() <= 1.1e4
    if isinstance(method, ml.MuSe):  # no summary can err where every cluster is summed exactly
        near = ml.MuSe(clusters=method.clusters, near=method.clusters, leaf=method.leaf, cap=method.cap)
        expected, expected_lse, _ = exact(q, k, v, causal)
        out, lse = check(near, q, k, v, causal)
        torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-2)
        torch.testing.assert_close(out.double(), expected, rtol=0.02, atol=0.02)


@given(st.data())
@thoroughly
def test_a_nan_query_is_alone_with_it(data):
    (q, k, v), causal = data.draw(tensors(dtypes=DTYPES[:2]))
    method = data.draw(methods(k.shape[2]))
    at = data.draw(st.integers(0, q.shape[2] - 1))
    q[:, :, at] = data.draw(st.sampled_from(POISON))
    out, lse = method(q, k, v, causal=causal, return_lse=True)
    others = torch.arange(q.shape[2]) != at
    assert out[:, :, others].isfinite().all()
    assert not lse[:, :, others].isnan().any()
    if isinstance(method, ml.Centroid | ml.MuSe):
        expected, expected_lse, _ = exact(q, k, v, causal)
        torch.testing.assert_close(
            out[:, :, others].double(), expected[:, :, others], **tolerance(torch.float32)
        )
    if not causal and k.shape[2] >= 16 and not isinstance(method, ml.Window):
        assert out[:, :, at].isnan().all()


@given(st.data())
@thoroughly
def test_a_poisoned_key_or_value_reaches_what_exact_attention_gives_it(data):
    (q, k, v), causal = data.draw(tensors(square=True, dtypes=DTYPES[:2]))
    method = data.draw(st.one_of(st.just(ml.Exact()), summaries(k.shape[2])))
    width = q.shape[-1]  # torch's fused kernel wants one head size for all three
    v = torch.nn.functional.pad(v, (0, max(0, width - v.shape[-1])))[..., :width].clone()
    poisoned = data.draw(st.sampled_from([k, v]))
    at, dimension = (data.draw(st.integers(0, n - 1)) for n in poisoned.shape[2:])
    poisoned[:, :, at, dimension] = data.draw(st.sampled_from(POISON))
    expected = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    out = method(q, k, v, causal=causal)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@given(st.data())
@thoroughly
def test_a_poisoned_call_ends_whatever_the_method(data):
    (q, k, v), causal = data.draw(tensors())
    method = data.draw(methods(k.shape[2]))
    for x in (q, k, v):
        share = data.draw(st.integers(1, x.shape[2] + 1))
        x[:, :, ::share] = data.draw(st.sampled_from([*POISON, 1e4]))
    out, lse = method(q, k, v, causal=causal, return_lse=True)
    assert out.shape == (*q.shape[:-1], v.shape[-1])
    assert lse.shape == q.shape[:-1]
