"""Lanes of a step: which event is in which, of the last step alone, in milliseconds from its beginning."""

from types import SimpleNamespace

import torch

from multipole_lab.training.profiles.lanes import STEP, lanes, union

CPU, GPU = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA


def event(name, start, end, device=CPU, annotation=False):
    time_range = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(
        name=name, time_range=time_range, device_type=device, is_user_annotation=annotation
    )


def test_intervals_are_joined_that_overlap_or_lie_close():
    assert union([(5, 6), (0, 2), (1, 3), (3.5, 4)], 0.5) == [[0, 4], [5, 6]]
    assert union([(0, 9), (1, 2)], 0) == [[0, 9]]


def test_without_a_gpu_the_operations_compute():
    found = lanes([
        event("aten::mm", 100, 900),  # of a step before
        event(STEP, 1000, 3000),
        event(STEP, 10_000, 20_000),
        event("aten::mm", 11_000, 13_000),
        event("aten::add", 12_000, 12_500),
        event("gloo:all_reduce", 19_000, 25_000),  # goes on after it
        event("Optimizer.step#AdamW.step", 10_000, 20_000, annotation=True),
    ])  # fmt: skip
    assert found == {"step": [[0, 10]], "compute": [[1, 3]], "messages": [[9, 10]]}


def test_on_a_gpu_its_kernels_compute_and_the_host_has_a_lane():
    found = lanes([
        event(STEP, 0, 10_000),
        event(STEP, 0, 9_000, GPU, annotation=True),
        event("aten::mm", 0, 1_000),
        event("nccl:all_reduce", 1_000, 1_100),  # the host's call
        event("gemm", 2_000, 6_000, GPU),
        event("ncclDevKernel_AllReduce", 4_000, 7_000, GPU),
    ])  # fmt: skip
    assert found == {"step": [[0, 10]], "compute": [[2, 6]], "messages": [[4, 7]], "host": [[0, 1]]}
