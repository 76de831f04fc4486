"""Clusters of any size take memory linear in the sequence."""

from pathlib import Path

import pytest
import torch
from parallel_worker import Alone

import multipole_lab as ml
from multipole_lab.attention.clusters.slots import from_slots, to_slots
from multipole_lab.bench.recorded import record
from multipole_lab.clustering.clusters import counting_sort
from multipole_lab.parallel import ContextParallel, context, parallel_reference
from multipole_lab.parallel.stages.pieces import Pieces
from multipole_lab.testing import assert_close


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0], ids=["even", "one large", "all in one"])
@pytest.mark.parametrize(("N", "C"), [(203, 8), (64, 64), (7, 3), (1, 1)])
def test_every_vector_has_a_slot_and_there_are_at_most_three_a_vector(N, C, share):
    g = torch.Generator().manual_seed(N)
    labels = torch.randint(C, (2, 3, N), generator=g)
    labels = torch.where(torch.rand(2, 3, N, generator=g) < share, C // 2, labels)
    labels[..., -1:] = -1  # padding has none
    x = torch.randn(2, 3, N, 4, generator=g)
    pieces = Pieces.of(*counting_sort(labels, C), None)
    assert pieces.slots.index[0, 0].numel() <= 3 * N + 2 * C
    assert int(pieces.slots.filled.sum()) == 6 * (N - 1)
    slots = to_slots(x, pieces.slots, labels >= 0)
    torch.testing.assert_close(from_slots(slots, pieces.slots)[:, :, :-1], x[:, :, :-1])
    mean = pieces.mean(slots)
    for j in range(C):
        mine = (labels == j).unsqueeze(-1)
        want = (x * mine).sum(2) / mine.sum(2).clamp(min=1)
        torch.testing.assert_close(mean[:, :, j], want, rtol=1e-5, atol=1e-5)


def test_without_a_cap_one_large_cluster_is_laid_out_in_pieces_and_nothing_changes(monkeypatch):
    """Keys that nearly all lie in one cluster: results and gradients of the reference, in torch."""
    monkeypatch.setattr(context, "Channel", Alone)
    g = torch.Generator().manual_seed(0)
    q, k, v, dout = (torch.randn(1, 2, 90, 8, generator=g) for _ in range(4))
    q[:, :, 20:], k[:, :, 20:] = q[:, :, 20:21], k[:, :, 20:21]  # equal vectors go to one cluster
    method = ml.MuSe(clusters=15, cap=None, near=2, backend="torch")
    sizes = method._partition.labels(k)[0, 0].bincount()
    assert sizes.max() > 2 * 2 * 90 / 15  # three pieces and more
    leaves, again = ([x.clone().requires_grad_() for x in (q, k, v)] for _ in "ab")
    out = ContextParallel(method)(*leaves)
    want, _ = parallel_reference(method, *again, 1)
    pairs = zip(torch.autograd.grad(out, leaves, dout), torch.autograd.grad(want, again, dout), strict=True)
    assert_close("out", out.detach(), want.detach(), error=1e-5)
    for name, (one, other) in zip(("dq", "dk", "dv"), pairs, strict=True):
        assert_close(name, one, other, error=1e-5)


def test_the_guide_has_the_times_that_were_recorded():
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "parallel.md").read_text(encoding="utf-8")
    rows = {(row["what"], row["causal"]): row["forward_ms"] for row in record("parallel-h200-local")["rows"]}
    names = {
        "k-means, one of two ranks": "context parallel, rank 1 of 2, kmeans",
        "k-means, one GPU alone": "one GPU, MuSe, kmeans",
        "runs, one of two ranks": "context parallel, rank 1 of 2, runs",
        "runs, one GPU alone": "one GPU, MuSe, runs",
        "ring attention, one of two ranks": "ring, rank 1 of 2",
    }
    for words, name in names.items():
        (line,) = (line for line in guide.splitlines() if line.startswith(f"| {words} |"))
        for causal, cell in enumerate(line.strip("| ").split("|")[1:]):
            if cell.strip():
                assert float(cell) == pytest.approx(rows[name, bool(causal)], abs=0.051)
