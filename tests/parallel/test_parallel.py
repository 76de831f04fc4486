"""Several gloo processes compute what one does, send what they say they send, and do not hang when one dies."""

import json
import os
import signal
import subprocess
import sys

import parallel_worker as worker
import pytest
import torch
from safetensors.torch import load_file

import multipole_lab as ml
from multipole_lab.parallel import ContextParallel, parallel_reference, part_of, ring_attention

FOUND = ("out", "lse", "dq", "dk", "dv")
MUSE = [name for name, (method, *_) in worker.CASES.items() if method is not None]
RINGS = [name for name in worker.CASES if name not in MUSE]


def start(mode, ranks, folder):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, worker.__file__, mode, str(rank), str(ranks), str(folder)],
            env=env, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def group(request, tmp_path_factory):
    """All cases in one start of that many processes: how many, every rank's tensors, and what it reported."""
    folder = tmp_path_factory.mktemp("group")
    processes = start("prove", request.param, folder)
    try:
        errors = [process.communicate(timeout=180)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)
    ranks = range(request.param)
    tensors = [load_file(folder / f"{rank}.safetensors") for rank in ranks]
    return request.param, tensors, [json.loads((folder / f"{rank}.json").read_text()) for rank in ranks]


def single(call, shape, masked):
    """Results and gradients in this process."""
    q, k, v, mask, dout, dlse = worker.problem(shape, masked)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out, lse = call(*inputs, mask)
    upstream = dout, torch.where(lse > -torch.inf, dlse, 0.0)
    grads = torch.autograd.grad((out, lse), inputs, upstream)
    return dict(zip(FOUND, (out.detach(), lse.detach(), *grads), strict=True))


def compare(tensors, name, expected, tolerance):
    for key, want in expected.items():
        got = torch.cat([own[f"{name}/{key}"] for own in tensors], 2)
        torch.testing.assert_close(
            got, want, rtol=tolerance, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", MUSE)
def test_the_parts_together_equal_one_process(group, name):
    """To 1e-5 in results and gradients. Neither 2 nor 4 divides 203, and two query heads share a key head."""
    ranks, tensors, _ = group
    method, shape, causal, masked = worker.CASES[name]

    def reference(q, k, v, mask):
        return parallel_reference(method, q, k, v, ranks, causal=causal, mask=mask)

    torch.set_num_threads(1)
    compare(tensors, name, single(reference, shape, masked), 1e-5)


@pytest.mark.parametrize("name", [*RINGS, "full all near"])
def test_ring_attention_and_muse_with_everything_near_equal_exact_attention(group, name):
    _, tensors, _ = group
    _, shape, causal, masked = worker.CASES[name]

    def exact(q, k, v, mask):
        return ml.Exact()(q, k, v, causal=causal, mask=mask, return_lse=True)

    compare(tensors, name, single(exact, shape, masked), 1e-5)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_bytes_are_those_of_the_formula_and_the_same_for_twice_the_length(group, causal):
    ranks, _, reports = group
    kind = "causal" if causal else "full"
    method, (B, Hq, _, _, D, Dv), *_ = worker.CASES[kind]
    C, w = method.clusters, 4
    for rank, report in enumerate(reports):
        asks, answers = (rank, ranks - 1 - rank) if causal else (ranks - 1, ranks - 1)
        forward = w * B * Hq * C * (asks * D + answers * C * (1 + D + Dv))
        backward = w * B * Hq * C * (answers * D + asks * C * (1 + D + Dv))
        for name in (kind, f"{kind} twice as long"):
            traffic = report["traffic"][name]
            assert traffic["sent"]["agreement"] == 96 * (ranks - 1)
            assert traffic["forward"] - 96 * (ranks - 1) == forward, (rank, name)
            assert traffic["backward"] == backward, (rank, name)


def test_the_ring_sends_twice_the_bytes_for_twice_the_length(group):
    ranks, _, reports = group
    for name in RINGS:
        B, _, Hk, N, D, Dv = worker.CASES[name][1]
        for rank, report in enumerate(reports):
            part = part_of(N, (rank + 1) % ranks, ranks)
            passed = N - (part.stop - part.start)
            traffic = report["traffic"][name]
            assert traffic["sent"]["ring"] == 4 * B * Hk * passed * (D + Dv)
            assert traffic["backward"] == 4 * B * Hk * (passed + N) * (D + Dv)


def test_near_clusters_are_fetched_once_and_never_more_than_all_keys(group):
    ranks, _, reports = group
    B, _, Hk, N, D, Dv = worker.SHAPE
    everything = [
        4 * B * Hk * (ranks - 1) * (part.stop - part.start) * (D + Dv)
        for part in (part_of(N, rank, ranks) for rank in range(ranks))
    ]
    for rank, report in enumerate(reports):
        assert report["traffic"]["full all near"]["sent"]["near keys"] == everything[rank]
        assert 0 < report["traffic"]["full near"]["sent"]["near keys"] < everything[rank]
        assert "near keys" not in report["traffic"]["full"]["sent"]


SAID = {
    "heads": "ValueError: the ranks disagree about the query heads (dimension 1 of q): rank 0 has 4, rank 1 has 2",
    "dtypes": "TypeError: the ranks disagree about the dtype: rank 0 has torch.float32, rank 1 has torch.float64",
    "causal": "ValueError: the ranks disagree about causal: rank 0 has 0, rank 1 has 1",
    "method": "ValueError: the ranks disagree about the method and its parameters",
    "gradients": "the ranks disagree about whether q, k or v requires gradients: rank 0 has 0, rank 1 has 1",
    "clusters": "ValueError: clusters is 30; at most the number of keys, 20",
    "queries": "with causal=True every rank needs as many queries as keys",
    "sinks": "ValueError: sinks is 21; fewer than the 20 keys of the first rank",
    "ring heads": "ValueError: the ranks disagree about the key/value heads",
}


@pytest.mark.parametrize("mistake", SAID)
def test_a_mistake_of_one_rank_is_an_error_on_all(group, mistake):
    for report in group[2]:
        assert SAID[mistake] in report["refusals"][mistake]


def test_a_model_reads_one_sequence_in_parts_on_several_processes(group):
    ranks, tensors, _ = group
    if ranks != 2:
        pytest.skip("the two ranks do it")
    model, ids = worker.tiny_model()
    with torch.no_grad():
        want = model(ids).logits
    got = torch.cat([own["logits"] for own in tensors], 1)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert (got[:, 30:] - model(ids[:, 26:]).logits[:, 4:]).abs().max() > 1e-3  # the first part was heard


@pytest.mark.parametrize("mode", ["dies", "silent"])
def test_a_rank_that_dies_or_falls_silent_ends_the_others_in_time(tmp_path, mode):
    """The group's limit is eight seconds; the silent rank would sleep for sixty."""
    processes = start(mode, 3, tmp_path)
    try:
        others = [processes[0], processes[2]]
        for process in others:
            process.communicate(timeout=150)  # most of it is their start
        assert all(process.returncode == 3 for process in others)
        if mode == "dies":
            assert processes[1].wait(timeout=10) == -signal.SIGKILL
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for rank in (0, 2):
        report = json.loads((tmp_path / f"{rank}.json").read_text())
        assert f"rank {rank} of 3: the exchange of summaries gradient failed" in report["error"]
        assert "another rank has ended or did not answer within the group's time limit" in report["error"]
        assert report["seconds"] < 20


def test_without_a_group_the_error_says_how_to_get_one():
    q = torch.ones(1, 1, 8, 4)
    for call in (ContextParallel(ml.MuSe(clusters=2)), ring_attention):
        with pytest.raises(RuntimeError, match="no process group: start the processes with torchrun"):
            call(q, q, q)


@pytest.mark.parametrize("choice", [{"near_for": "query"}, {"points": "earlier"}], ids=str)
def test_what_several_processes_do_not_do_is_refused(choice):
    ((name, value),) = choice.items()
    with pytest.raises(ValueError, match=f"method has {name} '{value}'; only .* is allowed across processes"):
        ContextParallel(ml.MuSe(near=1, **choice))


@pytest.mark.parametrize("method", [ml.Exact(), ml.Window(), "muse"])
def test_a_method_that_is_no_muse_is_refused(method):
    with pytest.raises(TypeError, match="a MuSe is needed"):
        ContextParallel(method)


def test_parts_are_contiguous_and_differ_by_at_most_one():
    parts = [part_of(11, rank, 4) for rank in range(4)]
    assert [p.stop - p.start for p in parts] == [3, 3, 3, 2]
    assert [x for p in parts for x in range(11)[p]] == list(range(11))
    with pytest.raises(ValueError, match="positions is 3; at least 4"):
        part_of(3, 0, 4)
    with pytest.raises(ValueError, match="rank is 4; 0 to 3"):
        part_of(11, 4, 4)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_the_reference_with_one_part_is_muse(causal):
    q, k, v, *_ = worker.problem((1, 2, 1, 64, 8, 8), False)
    method = ml.MuSe(clusters=4, near=1, sinks=2, leaf=8)
    out, lse = parallel_reference(method, q, k, v, 1, causal=causal)
    want, want_lse = method(q, k, v, causal=causal, return_lse=True)
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(lse, want_lse)
