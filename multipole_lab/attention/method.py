"""What every attention method shares: the call and its checks."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import is_dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from multipole_lab.attention.calls.checks import check_qkv, check_scale, key_mask, without_padding
from multipole_lab.attention.calls.opaque import attend, written
from multipole_lab.attention.calls.transforms import autocast_exists, transformed, without_autocast
from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.checks import DTYPES, check_flag
from multipole_lab.printing import changed
from multipole_lab.suggesting import check_fields, suggesting


class Method:
    """Base of the methods: frozen dataclasses that are called like ``scaled_dot_product_attention``.

    A subclass gives ``_full`` and ``_causal``; both return a partial. It prints as the call that makes it again, with
    the arguments that differ from their defaults, and answers a wrong argument with the nearest right one.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in vars(
            cls
        ):  # a dataclass gets one of its own otherwise, which writes out every field
            cls.__repr__ = Method.__repr__

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        if "__dataclass_fields__" in vars(cls) and not torch.compiler.is_compiling():
            check_fields(cls, args, kwargs)
        return super().__new__(cls)

    def __repr__(self) -> str:
        return changed(self) if is_dataclass(self) else f"{type(self).__name__}()"

    @suggesting
    def __call__(
        self,
        q: Float[Tensor, "B Hq Nq D"],
        k: Float[Tensor, "B Hk Nk D"],
        v: Float[Tensor, "B Hk Nk Dv"],
        *,
        causal: bool = False,
        scale: float | None = None,
        mask: Bool[Tensor, "B Nk"] | Bool[Tensor, "B 1 1 Nk"] | None = None,
        lengths: Tensor | None = None,
        return_lse: bool = False,
    ) -> Float[Tensor, "B Hq Nq Dv"] | tuple[Float[Tensor, "B Hq Nq Dv"], Float[Tensor, "B Hq Nq"]]:
        """Attend.

        Parameters
        ----------
        q, k, v : [B, Hq, Nq, D], [B, Hk, Nk, D], [B, Hk, Nk, Dv] with Hq a multiple of Hk; float16, bfloat16,
            float32 or float64, statistics in float32 (float64 for float64).
        causal : query t of Nq sees the keys up to Nk - Nq + t: the queries are the last Nq positions.
        scale : factor of the logits; 1/sqrt(D) by default.
        mask : boolean key padding, [B, Nk], True for keys that count.
        lengths : [B] integers instead of a mask: how many leading keys count.
        return_lse : also return the log-sum-exp of the logits, [B, Hq, Nq] float32, natural logarithm.

        Returns
        -------
        out [B, Hq, Nq, Dv] in q's dtype, or ``(out, lse)``. A query that sees no key gets zeros and -inf.

        Derivatives: the first in reverse mode, in memory linear in the sequence. Second ones, forward mode and the
        transforms of ``torch.func`` are torch's of the plain formula, which keeps its temporaries; the Triton kernels
        have no second derivative and refuse it. Assignments and the choice of near clusters are constants in all of
        them.

        Raises
        ------
        NotImplementedError : a second derivative of the Triton kernels, or ``torch.jit.trace``.
        ValueError, TypeError : shapes, heads, lengths, dtypes or devices that do not fit together, integer or
            empty tensors, a mask that depends on the query, a scale that is no finite number, flags that are neither
            True nor False.
        """
        device = q.device.type if isinstance(q, Tensor) else "cpu"
        if autocast_exists(device) and torch.is_autocast_enabled(device):
            # As torch's own attention does: one low-precision dtype for all three.
            q, k, v = (_autocast(x, torch.get_autocast_dtype(device)) for x in (q, k, v))
        check_qkv(q, k, v, causal)
        check_flag("return_lse", return_lse)
        padding = key_mask(mask, lengths, k.shape[0], k.shape[2], k.device)
        if padding is not None:
            k, v = without_padding(k, v, padding)
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else check_scale(scale)
        with without_autocast(device):
            text = written(self) if torch.compiler.is_compiling() and not transformed() else None
            if text is None:
                out, lse = (self._causal if causal else self._full)(q, k, v, scale, padding)
            else:
                out, lse = attend(q, k, v, padding, scale, causal, text)
        return (out, lse) if return_lse else out

    @suggesting
    def on(self, model: nn.Module, layers: object = None, strict: bool = False) -> AbstractContextManager:
        """Run a transformers model with this method as its attention: ``with method.on(model): model(...)``.

        Parameters
        ----------
        model : a decoder or an encoder of transformers 5. On exit, also after an error, it is as it was.
        layers : None for all layers, an integer or several for some, or ``{layer: method}`` to give layers methods of
            their own. All others stay exact.
        strict : refuse what the method cannot honour; otherwise such calls stay exact, are counted and said once.

        Returns
        -------
        A context manager that yields a ``multipole_lab.models.DropIn``: it counts what was approximated and what
        stayed exact, and says in full what is honoured and what is refused.
        """
        # Attention knows no transformers: what does stands above it and is imported when asked for.
        from multipole_lab.models.drop_in import attention_on

        return attention_on(model, self, layers, strict)

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        """Every query over every key that the mask keeps."""
        raise NotImplementedError

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        """The queries are the last Nq positions; each over the keys up to its own."""
        raise NotImplementedError


def _autocast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in the autocast dtype; what the checks refuse is left to them."""
    return x.to(dtype) if isinstance(x, Tensor) and x.dtype in DTYPES else x
