"""What an implementation of the lab's mathematics is compared with, yours too.

``oracle`` has every formula in float64, ``expected`` puts a method together from it, ``assert_close`` says where two
results differ, and the builders make inputs that find mistakes::

    from multipole_lab.testing import assert_close, oracle, qkv, ragged_labels

    q, k, v = qkv(1, (2, 1), 63, 127, 40, 24)
    labels = ragged_labels((1, 2, 63), 4), ragged_labels((1, 1, 127), 5, empty=[2])
    out, lse = oracle.over_heads(oracle.muse, q, k, v, *labels, near=1, s=0.2)
    assert_close("out", mine(q.float(), k.float(), v.float()), out, error=1e-5)
"""

from multipole_lab.suggesting import known_names
from multipole_lab.testing import oracle
from multipole_lab.testing.builders import orthonormal, padding_mask, qkv, ragged_labels, with_gradients
from multipole_lab.testing.closeness import assert_close, relative_error
from multipole_lab.testing.layouts import EXPANDED, LAYOUTS
from multipole_lab.testing.methods import expected

__all__ = [
    "EXPANDED",
    "LAYOUTS",
    "assert_close",
    "expected",
    "oracle",
    "orthonormal",
    "padding_mask",
    "qkv",
    "ragged_labels",
    "relative_error",
    "with_gradients",
]

__getattr__ = known_names(__name__, __all__)
