"""Comparing an answer with what is right, and saying in words where they differ."""

from __future__ import annotations

import numbers

import torch
from torch import Tensor


class Wrong(AssertionError):
    """An answer that differs; the message says how, without giving the right one away."""


def same(got: object, want: object, tol: float = 1e-4, what: str = "the result") -> None:
    """Raise `Wrong` unless ``got`` is ``want``: same structure and shapes, numbers equal to ``tol``.

    The largest difference may be ``tol`` times the largest finite number in ``want``; infinities must stand in the
    same places, integers and booleans must be equal. Tensors of another floating type are compared all the same.
    """
    if want is None:
        if got is not None:
            raise Wrong(f"{what} is {_kind(got)}; None is expected")
        return
    if isinstance(want, tuple | list):
        if not isinstance(got, tuple | list):
            raise Wrong(f"{what} is {_kind(got)}; {_count(len(want))} are expected")
        if len(got) != len(want):
            raise Wrong(f"{what} has {_count(len(got))}; {_count(len(want))} are expected")
        for i, (one, other) in enumerate(zip(got, want, strict=True)):
            same(
                one, other, tol, f"{_ORDINALS[i]} of {what}" if i < len(_ORDINALS) else f"item {i} of {what}"
            )
        return
    if isinstance(want, numbers.Number):
        if isinstance(got, Tensor) and got.numel() == 1:
            got = got.item()
        if isinstance(got, bool) != isinstance(want, bool) or not isinstance(got, numbers.Real):
            raise Wrong(f"{what} is {_kind(got)}; a number is expected")
        exact = isinstance(want, int)
        same(
            torch.tensor(got, dtype=torch.float64),
            torch.tensor(want, dtype=torch.float64),
            0 if exact else tol,
            what,
        )
        return
    if not isinstance(got, Tensor):
        raise Wrong(f"{what} is {_kind(got)}; a tensor is expected")
    if got.shape != want.shape:
        swapped = " (two axes swapped?)" if sorted(got.shape) == sorted(want.shape) else ""
        raise Wrong(f"{what} has shape {list(got.shape)}; {list(want.shape)} is expected{swapped}")
    if not want.is_floating_point():
        unequal = got.double() != want.double()
        if unequal.any():
            raise Wrong(f"{what} is wrong in {int(unequal.sum())} of {unequal.numel()} places")
        return
    got, want = got.detach().double(), want.detach().double()
    _same_infinities(got, want, what)
    finite = want.isfinite()
    if not finite.any():
        return
    largest = want[finite].abs().max().item()
    worst = (got[finite] - want[finite]).abs().max().item()
    if worst > tol * max(largest, 1e-30):
        raise Wrong(f"{what} is off by up to {worst:.2g}, with numbers up to {largest:.2g}")


def _same_infinities(got: Tensor, want: Tensor, what: str) -> None:
    nan = got.isnan() & ~want.isnan()
    if nan.any():
        raise Wrong(f"{what} is NaN in {int(nan.sum())} of {nan.numel()} places")
    infinite = ~got.isfinite() & (got != want) & ~want.isnan()
    if infinite.any():
        raise Wrong(f"{what} is infinite in {int(infinite.sum())} of {infinite.numel()} places")
    finite = got.isfinite() & ~want.isfinite()
    if finite.any():
        raise Wrong(
            f"{what} is finite in {int(finite.sum())} places where it has to be {_infinity(want, finite)}"
        )


def _infinity(want: Tensor, where: Tensor) -> str:
    return str(want[where][0].item())


def _kind(value: object) -> str:
    if value is None:
        return "None (is there a `return`?)"
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"a {type(value).__name__}"


def _count(n: int) -> str:
    return f"{n} thing" + "s" * (n != 1)


_ORDINALS = ("the first", "the second", "the third", "the fourth")
