"""What methods refuse: the message names the argument, what came and what is allowed."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import multipole_lab as ml
from multipole_lab.attention.calls.backend import check_affordable
from multipole_lab.kernels.common import checks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


METHODS = {
    "Exact": ml.Exact(),
    "Window": ml.Window(size=4, sinks=1),
    "TopK": ml.TopK(keys=3),
    "Centroid": ml.Centroid(clusters=2),
    "MuSe": ml.MuSe(clusters=2),
}


every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


both_ways = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])


def zeros(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(*shape, dtype=dtype, device=device)


Q, K, V = zeros(2, 4, 6, 8), zeros(2, 2, 9, 8), zeros(2, 2, 9, 5)


TENSORS = {
    "q no tensor": ([[1.0]], K, V, TypeError, r"q is a list; a torch tensor \[B, H, N, D\] is needed"),
    "v no tensor": (Q, K, None, TypeError, r"v is a NoneType; a torch tensor"),
    "q rank 3": (Q[0], K, V, ValueError, r"q has shape \(4, 6, 8\); four dimensions"),
    "k rank 2": (Q, K[0, 0], V, ValueError, r"k has shape \(9, 8\); four dimensions"),
    "v rank 5": (Q, K, V[None], ValueError, r"v has shape \(1, 2, 2, 9, 5\); four dimensions"),
    "integer q": (Q.long(), K, V, TypeError, r"q has dtype torch.int64; a floating dtype is needed"),
    "boolean k": (Q, K.bool(), V, TypeError, r"k has dtype torch.bool; a floating dtype is needed"),
    "complex v": (Q, K, V.cfloat(), TypeError, r"v has dtype torch.complex64; a floating dtype is needed"),
    "no queries": (Q[:, :, :0], K, V, ValueError, r"q has shape \(2, 4, 0, 8\); no dimension may be empty"),
    "no keys": (Q, K[:, :, :0], V[:, :, :0], ValueError, r"k has shape \(2, 2, 0, 8\); no dimension may be"),
    "empty batch": (Q[:0], K[:0], V[:0], ValueError, r"q has shape \(0, 4, 6, 8\); no dimension may be empty"),
    "dtypes": (Q, K.half(), V, TypeError, r"q, k and v.*float32, torch.float16, torch.float32; one dtype"),
    "devices": (Q, K, V.to("meta"), ValueError, r"q, k and v are on cpu, cpu, meta; one device is needed"),
    "batch": (Q[:1], K, V, ValueError, r"batch sizes \(dimension 0\) differ: q \(1, 4, 6, 8\), k \(2, "),
    "key and value heads": (Q, K, V[:, :1], ValueError, r"k and v have different numbers of heads.*\(2, 1, 9"),
    "Hq no multiple": (Q[:, :3], K, V, ValueError, r"query heads must be a multiple of the key/value.*\(2, 3,"),
    "fewer query heads": (Q[:, :1], K, V, ValueError, r"query heads must be a multiple of the key/value heads"),
    "lengths": (Q, K, V[:, :, :7], ValueError, r"k and v have different lengths.*v \(2, 2, 7, 5\)"),
    "head sizes": (Q[..., :7], K, V, ValueError, r"q and k have different head sizes.*q \(2, 4, 6, 7\)"),
}  # fmt: skip


@every_method
@both_ways
@pytest.mark.parametrize(("q", "k", "v", "error", "message"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit_together(method, causal, q, k, v, error, message):
    with pytest.raises(error, match=message):
        method(q, k, v, causal=causal)


@every_method
def test_integers_stay_refused_under_autocast(method):
    with torch.autocast("cpu", torch.bfloat16):
        assert method(Q, K.half(), V).dtype == torch.bfloat16
        with pytest.raises(TypeError, match=r"q has dtype torch.int64"):
            method(Q.long(), K, V)
        with pytest.raises(TypeError, match=r"q is a str"):
            method("q", K, V)


@every_method
def test_causal_queries_are_the_last_positions(method):
    with pytest.raises(
        ValueError, match=r"last positions, so Nq <= Nk is needed.*q \(2, 4, 6, 8\), k \(2, 2, 5, "
    ):
        method(Q, K[:, :, :5], V[:, :, :5], causal=True)


true = torch.ones(2, 9, dtype=torch.bool)


MASKS = {
    "per query": (true[:, None].expand(2, 6, 9), ValueError, r"mask has shape \(2, 6, 9\); only a key padding"),
    "per query, one head": (true[:, None, None].expand(2, 1, 6, 9), ValueError, r"\[B, 1, 1, Nk\].*causal=True"),
    "per head": (true[:, None, None].expand(2, 4, 1, 9), ValueError, r"mask has shape \(2, 4, 1, 9\)"),
    "one entry": (true[0], ValueError, r"mask has shape \(9,\); only a key padding mask \[B, Nk\]"),
    "too short": (true[:, :8], ValueError, r"mask has shape \(2, 8\); \[B, N\] = \[2, 9\] is needed"),
    "other batch": (true[:1], ValueError, r"mask has shape \(1, 9\); \[B, N\] = \[2, 9\] is needed"),
    "additive": (true.float(), TypeError, r"mask is torch.float32; a boolean tensor is needed"),
    "additive, rank 4": (true.float()[:, None, None], TypeError, r"mask is torch.float32; a boolean tensor"),
    "integers": (true.long(), TypeError, r"mask is torch.int64; a boolean tensor is needed"),
    "list": ([[True] * 9] * 2, TypeError, r"mask is list; a boolean tensor is needed"),
    "device": (true.to("meta"), ValueError, r"mask is on meta, q on cpu; one device is needed"),
}  # fmt: skip


@every_method
@both_ways
@pytest.mark.parametrize(("mask", "error", "message"), MASKS.values(), ids=MASKS)
def test_masks_that_cannot_be_honoured(method, causal, mask, error, message):
    with pytest.raises(error, match=message):
        method(Q, K, V, causal=causal, mask=mask)


LENGTHS = {
    "too long": ([9, 10], ValueError, r"lengths is \[9, 10\]; values between 0 and Nk = 9 are needed"),
    "negative": ([-1, 3], ValueError, r"lengths is \[-1, 3\]; values between 0 and Nk = 9 are needed"),
    "boolean": ([True, False], TypeError, r"lengths has dtype torch.bool; integers of shape \[B\] = \[2\]"),
    "fractions": ([2.0, 3.0], TypeError, r"lengths has dtype torch.float32; integers of shape"),
    "words": (["two", "three"], TypeError, r"lengths is \['two', 'three'\]; integers of shape \[B\] = \[2\]"),
    "one number": (3, ValueError, r"lengths has shape \(\); integers of shape \[B\] = \[2\] are needed"),
    "three numbers": ([1, 2, 3], ValueError, r"lengths has shape \(3,\); integers of shape \[B\] = \[2\]"),
    "column": ([[1], [2]], ValueError, r"lengths has shape \(2, 1\); integers of shape"),
    "ragged": ([[1], [2, 3]], TypeError, r"lengths is \[\[1\], \[2, 3\]\]; integers of shape"),
}


@every_method
@both_ways
@pytest.mark.parametrize(("lengths", "error", "message"), LENGTHS.values(), ids=LENGTHS)
def test_lengths_out_of_range_type_or_shape(method, causal, lengths, error, message):
    with pytest.raises(error, match=message):
        method(Q, K, V, causal=causal, lengths=lengths)


@every_method
def test_mask_and_lengths_together(method):
    with pytest.raises(ValueError, match=r"mask and lengths are both given; give one"):
        method(Q, K, V, mask=true, lengths=[9, 9])


@every_method
@pytest.mark.parametrize(
    ("scale", "error"),
    [
        ("1", TypeError),
        (True, TypeError),
        (1j, TypeError),
        (zeros(2), TypeError),
        (math.nan, ValueError),
        (math.inf, ValueError),
    ],
    ids=str,
)
def test_a_scale_that_is_no_finite_number(method, scale, error):
    with pytest.raises(error, match=r"scale is .*; a finite number is needed, or None for 1/sqrt\(D\)"):
        method(Q, K, V, scale=scale)


@every_method
def test_any_finite_number_is_a_scale(method):
    for scale in (0, 2, -0.5, np.float32(0.25)):
        assert method(Q, K, V, scale=scale).isfinite().all()


INTEGERS = [  # and the least that is allowed
    (ml.Window, "size", 1),
    (ml.Window, "sinks", 0),
    (ml.TopK, "keys", 1),
    (ml.Centroid, "clusters", 1),
    (ml.Centroid, "iterations", 0),
    (ml.Centroid, "budget", 0),
    (ml.Centroid, "sinks", 0),
    (ml.Centroid, "recent", 0),
    (ml.Centroid, "leaf", 1),
    (ml.MuSe, "clusters", 1),
    (ml.MuSe, "query_clusters", 1),
    (ml.MuSe, "iterations", 0),
    (ml.MuSe, "dipole_rank", 1),
    (ml.MuSe, "near", 0),
    (ml.MuSe, "leaf", 1),
    (ml.MuSe, "sinks", 0),
]


@pytest.mark.parametrize(
    ("method", "name", "least"), INTEGERS, ids=[f"{m.__name__} {n}" for m, n, _ in INTEGERS]
)
def test_a_field_that_is_no_integer_or_too_small(method, name, least):
    for value in (1.5, True, zeros(1)):
        with pytest.raises(TypeError, match=rf"{name} is .*; an integer is needed"):
            method(**{name: value})
    if name not in ("dipole_rank", "query_clusters"):
        with pytest.raises(TypeError, match=rf"{name} is None; an integer is needed"):
            method(**{name: None})
    with pytest.raises(ValueError, match=rf"{name} is {least - 1}; at least {least} is needed"):
        method(**{name: least - 1})


@pytest.mark.parametrize("method", [ml.Centroid, ml.MuSe])
def test_a_field_with_an_unknown_name(method):
    for value in ("k-means", None, 3, ["kmeans"]):
        with pytest.raises(ValueError, match=r"partition is .*; allowed are 'kmeans', 'balanced', 'runs'"):
            method(partition=value)
    for value in ("cuda", None, True):
        with pytest.raises(ValueError, match=r"backend is .*; allowed are 'auto', 'torch', 'triton'"):
            method(backend=value)
    with pytest.raises(ValueError, match=r"clusters is 'many'; an integer or 'auto' is needed"):
        method(clusters="many")


@pytest.mark.parametrize("order", ["quadrupole", None, 1])
def test_an_unknown_order(order):
    with pytest.raises(ValueError, match=r"order is .*; allowed are 'monopole', 'dipole'"):
        ml.MuSe(order=order)


def kmeans_of(**rest):
    return ml.kmeans(K, clusters=3, **rest)


@pytest.mark.parametrize("make", [ml.Centroid, ml.MuSe, kmeans_of])
@pytest.mark.parametrize("cap", [0.99, 0, -1.5, math.nan, math.inf])
def test_a_cap_below_one_or_not_finite(make, cap):
    with pytest.raises(ValueError, match=r"cap is .*; at least 1 is needed"):
        make(cap=cap)


@pytest.mark.parametrize("make", [ml.Centroid, ml.MuSe, kmeans_of])
@pytest.mark.parametrize("cap", ["1.5", True, [2]], ids=str)
def test_a_cap_that_is_no_number(make, cap):
    with pytest.raises(TypeError, match=r"cap is .*; a number of at least 1 or None is needed"):
        make(cap=cap)


def test_a_cap_is_no_need():
    assert ml.MuSe(clusters=2, cap=None)(Q, K, V).shape == (2, 4, 6, 5)
    assert ml.Centroid(clusters=2, cap=None)(Q, K, V).shape == (2, 4, 6, 5)
    assert kmeans_of(cap=None).size == 3


@pytest.mark.parametrize("make", [ml.Centroid, ml.MuSe, kmeans_of])
def test_a_seed_that_no_generator_takes(make):
    for seed in ("0", 0.5, None, True):
        with pytest.raises(TypeError, match=r"seed is .*; an integer is needed"):
            make(seed=seed)
    for seed in (1 << 64, -(1 << 63) - 1):
        with pytest.raises(ValueError, match=r"seed is -?\d+; from -2\^63 to 2\^64 - 1 is allowed"):
            make(seed=seed)


@pytest.mark.parametrize("method", [ml.Centroid, ml.MuSe])
def test_more_clusters_than_keys(method):
    with pytest.raises(ValueError, match=r"clusters is 10; at most the number of keys, 9, is allowed"):
        method(clusters=10)(Q, K, V)
    assert method(clusters=9)(Q, K, V).shape == (2, 4, 6, 5)
    assert method(clusters=10)(Q, K, V, causal=True).shape == (2, 4, 6, 5), "a short block takes fewer"


@pytest.mark.parametrize("method", [ml.Centroid, ml.MuSe])
@both_ways
def test_triton_needs_a_device_dtype_and_head_size_of_its_own(method, causal, monkeypatch):
    q, k, v = (x.to(DEVICE) for x in (zeros(1, 2, 6, 16), zeros(1, 1, 9, 16), zeros(1, 1, 9, 32)))
    attend = method(clusters=2, backend="triton")
    with pytest.raises(TypeError, match=r'backend="triton": q is torch.float64.*use backend="torch"'):
        attend(q.double(), k.double(), v.double(), causal=causal)
    with pytest.raises(
        ValueError, match=r'backend="triton": v has head size 8.*16 to 256; use backend="torch"'
    ):
        attend(q, k, v[..., :8], causal=causal)
    q, k, v = (x.cpu() for x in (q, k, v))
    monkeypatch.setattr(checks, "interpreting", lambda: False)
    with pytest.raises(
        ValueError, match=r"on cpu; the Triton kernels need a CUDA device.*TRITON_INTERPRET=1"
    ):
        attend(q, k, v, causal=causal)
    for backend in ("auto", "torch"):
        assert method(clusters=2, backend=backend)(q, k, v, causal=causal).shape == (1, 2, 6, 32)


def test_a_budget_for_many_queries_on_a_gpu_is_refused_unless_a_backend_is_named(monkeypatch):
    q = torch.empty(2, 8, 512, 16)
    for budget, backend, on_gpu, queries, refused in [
        (64, "auto", True, 512, True),
        (64, "auto", False, 512, False),
        (64, "torch", True, 512, False),
        (0, "auto", True, 512, False),
        (64, "auto", True, 256, False),
    ]:
        here = SimpleNamespace(shape=q[:, :, :queries].shape, is_cuda=on_gpu)
        told = (
            pytest.raises(ValueError, match=r"budget is 64 for 8,192 queries on a GPU.*MuSe")
            if refused
            else nullcontext()
        )
        with told:
            check_affordable(budget, backend, here)
