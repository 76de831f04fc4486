"""How far a result is from what it should be, said so that the place can be found."""

from __future__ import annotations

import torch
from torch import Tensor

from multipole_lab.suggesting import suggesting


@suggesting
def relative_error(ours: Tensor, oracle: Tensor) -> float:
    """``|ours - oracle| / |oracle|`` over all numbers, in float64; where both are the same infinity they agree."""
    ours, oracle = (x.detach().double() for x in (ours, oracle))
    off = torch.where(ours == oracle, 0.0, ours - oracle)
    size = torch.where(oracle.isfinite(), oracle, 0.0).norm()
    return (off.norm() / size.clamp(min=1e-150)).item()


@suggesting
def assert_close(
    name: str,
    ours: Tensor,
    oracle: Tensor,
    *,
    error: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Refuse a result that is not the oracle's, naming the quantity, the worst place and both values.

    Parameters
    ----------
    name : what is compared: "out", "lse", "dq".
    ours, oracle : of one shape; compared in float64, whatever their dtypes and devices. Equal infinities agree; a NaN
        agrees with nothing.
    error : the largest relative error of all numbers together, ``|ours - oracle| / |oracle|``.
    rtol, atol : each number may be off by ``atol + rtol |oracle|``. Without an ``error`` and these two, those of
        ``torch.testing`` for the dtype of ours. Both kinds may be asked for at once.

    Raises
    ------
    AssertionError : a shape that differs, or numbers that differ by more.
    """
    if ours.shape != oracle.shape:
        raise AssertionError(f"{name}: the shape is {tuple(ours.shape)}, the oracle's {tuple(oracle.shape)}")
    if error is None and rtol is None and atol is None:
        rtol, atol = torch.testing._comparison.default_tolerances(ours, dtype_precisions=None)
    wanted = oracle.detach().double()
    given = ours.detach().to(wanted)
    off = torch.where(given == wanted, 0.0, (given - wanted).abs()).nan_to_num(nan=torch.inf)
    said = []
    if rtol is not None or atol is not None:
        allowed = (atol or 0.0) + (rtol or 0.0) * torch.where(wanted.isfinite(), wanted.abs(), 0.0)
        over = off > allowed
        if over.any():
            said.append(f"{int(over.sum())} of {off.numel()} numbers are off by more than allowed")
            off = torch.where(over, off, 0.0) / allowed.clamp(min=1e-300)
    if error is not None and not (found := relative_error(given, wanted)) <= error:
        said.append(f"the relative error of all numbers is {found:.2e}, allowed is {error:.2e}")
    if said:
        place = torch.unravel_index(off.argmax(), off.shape) if off.ndim else ()
        raise AssertionError(
            f"{name}: {' and '.join(said)}. Worst at [{', '.join(str(int(i)) for i in place)}]: "
            f"ours {given[place].item():.9g}, oracle {wanted[place].item():.9g}"
        )
