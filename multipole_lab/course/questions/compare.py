"""Comparing an answer with what is right, and saying in words where they differ."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import torch
from torch import Tensor


class Wrong(AssertionError):
    """An answer that differs; the message says how."""


def same(
    got: object,
    want: object,
    tol: float = 1e-4,
    what: str = "the result",
    names: Sequence[str] = (),
    tell: bool = False,
) -> None:
    """Raise `Wrong` unless ``got`` is ``want``: same structure and shapes, numbers equal to ``tol``.

    The largest difference may be ``tol`` times the largest finite number in ``want``; infinities must stand in the
    same places, integers and booleans must be equal. Tensors of another floating type are compared all the same.

    Parameters
    ----------
    got, want : the answer, and what it has to be.
    tol : relative to the largest number.
    what : what the message calls it.
    names : what it calls the parts of a tuple, such as ("out", "lse").
    tell : whether it gives the right number away where the first difference is.
    """
    if want is None:
        if got is not None:
            raise Wrong(f"{what} is {_kind(got)}; None is expected")
    elif isinstance(want, tuple | list):
        _same_items(got, want, tol, what, names, tell)
    elif isinstance(want, numbers.Number):
        _same_number(got, want, tol, what, tell)
    elif not isinstance(got, Tensor):
        raise Wrong(f"{what} is {_kind(got)}; a tensor is expected")
    elif got.shape != want.shape:
        swapped = " (two axes swapped?)" if sorted(got.shape) == sorted(want.shape) else ""
        raise Wrong(f"{what} has shape {list(got.shape)}; {list(want.shape)} is expected{swapped}")
    else:
        _same_tensor(got.detach(), want.detach(), tol, what, tell)


def _same_items(got: object, want: Sequence, tol: float, what: str, names: Sequence[str], tell: bool) -> None:
    asked = f" ({', '.join(names)})" if len(names) == len(want) else ""
    if not isinstance(got, tuple | list):
        raise Wrong(f"{what} is {_kind(got)}; {_count(len(want))}{asked} are expected")
    if len(got) != len(want):
        raise Wrong(f"{what} has {_count(len(got))}; {_count(len(want))}{asked} are expected")
    for i, (one, other) in enumerate(zip(got, want, strict=True)):
        name = names[i] if i < len(names) else f"item {i} of {what}"
        plain = isinstance(other, tuple) and all(isinstance(number, int) for number in other)
        if (
            plain and isinstance(one, tuple) and len(one) == len(other)
        ):  # a block of a plan: shown as one thing
            if tuple(one) != other:
                raise Wrong(f"{name} is {_shown(one)}{_right(other, tell)}")
            continue
        same(one, other, tol, name, tell=tell)


def _same_number(got: object, want: float, tol: float, what: str, tell: bool) -> None:
    if isinstance(got, Tensor) and got.numel() == 1:
        got = got.item()
    if isinstance(got, bool) != isinstance(want, bool) or not isinstance(got, numbers.Real):
        raise Wrong(f"{what} is {_kind(got)}; a number is expected")
    if isinstance(want, int):
        if got != want:
            raise Wrong(f"{what} is {_shown(got)}{_right(want, tell)}")
        return
    try:
        one = torch.tensor(float(got), dtype=torch.float64)
    except OverflowError:
        raise Wrong(f"{what} is a number too large for a float") from None
    _same_tensor(one, torch.tensor(want, dtype=torch.float64), tol, what, tell)


def _same_tensor(got: Tensor, want: Tensor, tol: float, what: str, tell: bool) -> None:
    exact = not want.is_floating_point()
    got, want = got.double(), want.double()
    _same_infinities(got, want, what, tell)
    finite = want.isfinite()
    if not finite.any():
        return
    largest = want[finite].abs().max().item()
    off = torch.where(finite, got - want, 0.0).abs()
    differs = off > (0.0 if exact else tol * max(largest, 1e-30))
    if not differs.any():
        return
    if exact:
        how = f"is wrong in {int(differs.sum())} of {differs.numel()} places"
    else:
        how = f"is off by up to {off.max().item():.2g}, with numbers up to {largest:.2g}"
    raise Wrong(f"{what} {how}{_first(got, want, differs, tell)}")


def _same_infinities(got: Tensor, want: Tensor, what: str, tell: bool) -> None:
    for how, differs in {
        "NaN": got.isnan() & ~want.isnan(),
        "infinite": got.isinf() & (got != want) & ~want.isnan(),
        "finite": got.isfinite() & ~want.isfinite(),
    }.items():
        if differs.any():
            must = f" where it has to be {want[differs][0].item()}" if how == "finite" else ""
            where = _first(got, want, differs, tell and not must)
            raise Wrong(f"{what} is {how} in {int(differs.sum())} of {differs.numel()} places{must}{where}")


def _first(got: Tensor, want: Tensor, differs: Tensor, tell: bool) -> str:
    """The first place that differs, and what stands there."""
    if got.dim() == 0:
        return f": it is {_shown(got.item())}{_right(want.item(), tell)}"
    place = tuple(differs.nonzero()[0].tolist())
    return f"; the first is {list(place)}: {_shown(got[place].item())}{_right(want[place].item(), tell)}"


def _right(want: object, tell: bool) -> str:
    return f", right is {_shown(want)}" if tell else ""


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    text = str(value)
    return text if len(text) <= 60 else text[:60] + " ..."


def _kind(value: object) -> str:
    if value is None:
        return "None (is there a `return`?)"
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"a {type(value).__name__}"


def _count(n: int) -> str:
    return f"{n} thing" + "s" * (n != 1)
