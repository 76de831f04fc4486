"""Assignment 5: the right answers."""

from __future__ import annotations

import torch
from torch import Tensor

from multipole_lab.course.questions.answers import a1 as a1_answers


def add_scaled(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    return torch.add(x.double(), y.double(), alpha=alpha)


def row_lse(x: Tensor) -> Tensor:
    return x.double().logsumexp(-1)


def merge(o1: Tensor, l1: Tensor, o2: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
    return a1_answers.merge([(o1, l1), (o2, l2)])


def tilt(p: Tensor, k: Tensor, order: Tensor, offsets: Tensor, s: float) -> tuple[Tensor, Tensor]:
    mass, centroid = [], []
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        members = k[order[begin:end]].double()
        logits = s * members @ p.double()
        mass.append(logits.logsumexp(0))
        centroid.append(logits.softmax(0) @ members)
    return torch.stack(mass), torch.stack(centroid)


def strided_lse(storage: Tensor, M: int, N: int, row_stride: int, column_stride: int) -> Tensor:
    return row_lse(torch.as_strided(storage, (M, N), (row_stride, column_stride)))
