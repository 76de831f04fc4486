"""The mathematics of the lab in float64, written as the equations are: what every implementation is compared with.

Nothing here is fast and nothing is taken from the code that it checks. A function looks at one head: q [Nq, D],
k [Nk, D], v [Nk, Dv], and ``over_heads`` at all of them; ``exact``, ``merge`` and ``causal`` take leading dimensions.
s is the scale, p an expansion point. All are differentiable by torch. A result is a partial ``(out, lse)``; a query
that sees no key has an out of 0 and a lse of -inf. A label of -1 is padding.

Given tensors of float64 they compute in float64. In the dtype of an implementation they show how much rounding it
may have.
"""

from multipole_lab.testing.oracle.causal import causal
from multipole_lab.testing.oracle.decode import decode_step
from multipole_lab.testing.oracle.expansion import (
    Summary,
    dipole,
    expanded,
    far_dipoles,
    means,
    members,
    muse,
    summaries,
    summary,
    tilt,
)
from multipole_lab.testing.oracle.replacement import centroid, prefix
from multipole_lab.testing.oracle.softmax import exact, merge, over_heads, softmax, softmax_sum, visible

__all__ = [
    "Summary",
    "centroid",
    "causal",
    "decode_step",
    "dipole",
    "exact",
    "expanded",
    "far_dipoles",
    "means",
    "members",
    "merge",
    "muse",
    "over_heads",
    "prefix",
    "softmax",
    "softmax_sum",
    "summaries",
    "summary",
    "tilt",
    "visible",
]
