"""Every address that a kernel reads or writes lies inside a tensor: checked in the interpreter, load by load."""

import sys

import numpy as np
import pytest
import torch

import multipole_lab as ml
from multipole_lab.kernels.common import launch as door

interpreter = pytest.importorskip("triton.runtime.interpreter")
pytestmark = pytest.mark.skipif(not door.interpreting(), reason="kernels are compiled here, not interpreted")


@pytest.fixture
def guarded(monkeypatch):
    """Within a launch, masked loads and stores may touch the storages of its tensors only."""
    spans: list[tuple[int, int]] = []
    start = door.launch

    def launch(kernel, grid, *args, **kwargs):
        given = (x for a in args for x in (a if isinstance(a, tuple) else (a,)))
        tensors = [x for x in given if isinstance(x, torch.Tensor)]
        stores = [t.untyped_storage() for t in tensors]
        spans[:] = sorted({(s.data_ptr(), s.data_ptr() + s.nbytes()) for s in stores if s.nbytes()})
        return start(kernel, grid, *args, **kwargs)

    def check(pointers, mask, what):
        at = pointers.data[mask.data.astype(bool)].astype(np.int64)
        width = pointers.get_element_ty().primitive_bitwidth // 8
        inside = np.zeros(at.shape, dtype=bool)
        for begin, end in spans:
            inside |= (at >= begin) & (at + width <= end)
        assert inside.all(), f"{(~inside).sum()} of {at.size} addresses of a {what} lie in no tensor"

    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def masked_load(self, ptrs, mask, *rest):
        check(ptrs, mask, "load")
        return load(self, ptrs, mask, *rest)

    def masked_store(self, ptrs, value, mask, *rest):
        check(ptrs, mask, "store")
        return store(self, ptrs, value, mask, *rest)

    monkeypatch.setattr(builder, "create_masked_load", masked_load)
    monkeypatch.setattr(builder, "create_masked_store", masked_store)
    for module in _modules_with_launch():
        monkeypatch.setattr(module, "launch", launch)


def _modules_with_launch():
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("multipole_lab.kernels.") and getattr(module, "launch", None) is door.launch
    ]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "method",
    [
        {"near": 1},
        {"cap": None},
        {"order": "dipole", "dipole_rank": 3},
        {"partition": "runs"},
        {"partition": "runs", "query_clusters": 5},
    ],
    ids=str,
)
def test_muse_stays_inside_its_tensors(method, causal, request):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, h, 37, d, generator=g).requires_grad_() for h, d in ((2, 16), (1, 16), (1, 24)))
    attend = ml.MuSe(clusters=3, leaf=16, backend="triton", **method)
    attend(q, k, v, causal=causal)  # imports what it needs
    request.getfixturevalue("guarded")
    attend(q, k, v, causal=causal).square().sum().backward()


def test_the_guard_sees_a_launch_that_reads_too_far(guarded):
    from multipole_lab.kernels.clustering import sort
    from multipole_lab.kernels.common.tiles import Tile

    labels, counts = torch.zeros(40, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int32)

    def count(N):
        sort.launch(
            sort.count_labels_kernel, (1,), labels, counts, N, 2, 1, BINS=16, BN=64, tile=Tile(64, 64)
        )

    count(40)
    with pytest.raises(Exception, match="20 of 60 addresses of a load lie in no tensor"):
        count(60)
