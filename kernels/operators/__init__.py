"""Operators of `torch.library` over the kernels, and attention made of them: for models without the library.

Each operator is one node of a compiled graph. Derivatives are first ones in reverse mode, as in the kernels.
"""

from .attention import attention, muse_attention
from .clusters import clusters
from .exact import exact
from .muse import muse, muse_causal

__all__ = ["attention", "clusters", "exact", "muse", "muse_attention", "muse_causal"]
