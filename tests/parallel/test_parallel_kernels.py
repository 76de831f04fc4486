"""Context parallelism by the kernels, in Triton's interpreter where there is no GPU: what torch computes."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import parallel_worker as worker
import pytest
import torch
from parallel_worker import Alone
from safetensors.torch import load_file

import multipole_lab as ml
from multipole_lab.parallel import ContextParallel, context, parallel_reference
from multipole_lab.testing import assert_close

NAMES = ("out", "lse", "dq", "dk", "dv")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ONE_RANK = {
    "kmeans": (ml.MuSe(clusters=4), False),
    "near, sinks, padding": (ml.MuSe(clusters=3, query_clusters=2, cap=None, near=2, sinks=2), True),
}


def found(attend, inputs, mask, upstream, **options):
    """Results and gradients."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    results = attend(*leaves, mask=mask, return_lse=True, **options)
    grads = torch.autograd.grad(results, leaves, upstream)
    return dict(zip(NAMES, (*(x.detach() for x in results), *grads), strict=True))


@pytest.mark.parametrize("name", ONE_RANK)
def test_one_rank_by_the_kernels_computes_what_torch_does(name, monkeypatch, poisoned):
    """And the reference in one process: which members are fetched, and what is heard of oneself, is the same."""
    method, masked = ONE_RANK[name]
    monkeypatch.setattr(context, "Channel", Alone)
    q, k, v, mask, *upstream = (
        x if x is None else x.to(DEVICE) for x in worker.problem((1, 2, 1, 37, 16, 16), masked)
    )
    by_kernels, by_torch = (ContextParallel(replace(method, backend=name)) for name in ("triton", "torch"))
    got = found(by_kernels, (q, k, v), mask, upstream)
    want = found(by_torch, (q, k, v), mask, upstream)
    for key in NAMES:
        assert_close(key, got[key], want[key], error=1e-5)
    out, lse = parallel_reference(by_torch.method, q, k, v, 1, mask=mask)
    assert_close("out", got["out"], out, error=1e-5)
    assert_close("lse", got["lse"], lse, error=1e-5)


@pytest.mark.slow
def test_two_ranks_by_the_kernels_are_one_process(tmp_path):
    """Ragged parts, near clusters from both ranks, causal and full, results and gradients; bytes without the length."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, worker.__file__, "kernels", str(rank), "2", str(tmp_path)],
            env=env, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=180)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)
    tensors = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    for name, (method, shape, causal, masked) in worker.KERNEL_CASES.items():
        q, k, v, mask, dout, dlse = worker.problem(shape, masked)
        leaves = [x.requires_grad_() for x in (q, k, v)]
        out, lse = parallel_reference(method, *leaves, 2, causal=causal, mask=mask)
        want = out, lse, *torch.autograd.grad((out, lse), leaves, (dout, dlse))
        for key, expected in zip(NAMES, want, strict=True):
            got = torch.cat([own[f"{name}/{key}"] for own in tensors], 2)
            assert_close(f"{name}/{key}", got, expected.detach(), error=1e-5)
    _, (B, Hq, _, _, D, Dv), *_ = worker.KERNEL_CASES["full"]
    C = worker.KERNEL_CASES["full"][0].clusters
    for rank in range(2):
        traffic = json.loads((tmp_path / f"{rank}.json").read_text())["traffic"]["full"]
        said = 4 * B * Hq * C * (D + C * (1 + D + Dv))
        assert traffic["forward"] - 96 == traffic["backward"] == said
