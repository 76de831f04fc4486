"""No call by the kernels waits for the device: a call that does can be in no CUDA graph, and stalls a model's queue."""

import pytest
import torch

import multipole_lab as ml

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no device to wait for")

METHODS = [
    ml.MuSe(),
    ml.MuSe(near=2),
    ml.MuSe(near=2, near_for="query"),
    ml.MuSe(order="dipole", dipole_rank=4),
    ml.MuSe(partition="runs"),
    ml.MuSe(partition="balanced"),
    ml.MuSe(leaf=512, levels="merged"),
    ml.MuSe(leaf=512, points="earlier"),
    ml.MuSe(leaf=512, points="earlier", near=2),
    ml.MuSe(leaf=512, points="earlier", near=2, near_for="query"),
    ml.MuSe(leaf=512, points="earlier", partition="runs", sinks=4),
    ml.Window(size=256),
]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_no_call_waits_for_the_device(method, causal, backward):
    if backward and getattr(method, "near_for", "cluster") == "query":
        pytest.skip("torch makes these gradients")
    q, k, v = (torch.randn(1, 2, 4101, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    inputs = [x.requires_grad_(backward) for x in (q, k, v)]

    def call():
        out = method(*inputs, causal=causal)
        if backward:
            torch.autograd.grad(out, inputs, out.detach())

    with ml.without_graphs():
        call()  # compiles
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
