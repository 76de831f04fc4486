"""Exact attention with its log-sum-exp: the oracle, the near field and the causal leaf."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from multipole_lab.attention.calls.backend import use_triton
from multipole_lab.attention.calls.transforms import differentiated_again, transformed
from multipole_lab.attention.method import Method
from multipole_lab.attention.partials import Partial, merge
from multipole_lab.clustering.clusters import statistics_dtype

aten = torch.ops.aten


@dataclass(frozen=True)
class Exact(Method):
    """Softmax attention, every key summed: what all other methods approximate."""

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return exact_partial(q, k, v, scale, mask=mask)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return exact_causal(q, k, v, scale, mask)


def exact_partial(
    q: Float[Tensor, "B Hq Nq D"],
    k: Float[Tensor, "B Hk Nk D"],
    v: Float[Tensor, "B Hk Nk Dv"],
    scale: float,
    causal: bool = False,
    mask: Bool[Tensor, "B Nk"] | Bool[Tensor, "#B Nq Nk"] | None = None,
    backend: str = "auto",
) -> Partial:
    """Softmax attention and its log-sum-exp in linear memory, differentiable in both.

    ``causal`` needs Nq = Nk. ``mask`` is True for keys that count, for all queries or for each. The lse is
    float32 (float64 for float64), natural logarithm, -inf for a query that sees no key.
    """
    if (mask is None or mask.ndim == 2) and use_triton(backend, q, v):
        from multipole_lab.kernels.exact.leaf import leaf

        return leaf(q, k, v, scale, causal, mask)
    group = q.shape[1] // k.shape[1]
    if group > 1 and not causal and (mask is None or mask.ndim == 2):
        # The queries of a group see the same keys: one head with all of them, where a copy of the keys would cost more.
        together = q.unflatten(1, (-1, group)).flatten(2, 3)
        out, lse = exact_partial(together, k, v, scale, mask=mask, backend=backend)
        return out.unflatten(2, (group, -1)).flatten(1, 2), lse.unflatten(2, (group, -1)).flatten(1, 2)
    if causal and scale <= 0:  # the fused kernel scales the -inf of its causal mask: to NaN, or to inf
        q, scale = (-q, -scale) if scale < 0 else (0 * q, 1.0)
    if group > 1:
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    Dv = v.shape[-1]
    size = max(q.shape[-1], Dv)  # the fused kernel wants one head size for all three
    q, k, v = (pad(x, (0, size - x.shape[-1])) if x.shape[-1] < size else x for x in (q, k, v))
    bias = None
    if mask is not None:
        mask = mask[:, None] if mask.ndim == 2 else mask  # [B, 1 or Nq, Nk]
        bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device)
        bias = bias.masked_fill(~mask, -torch.inf)[:, None]
    attend = plain_attention if transformed() else fused_attention
    out, lse = attend(q, k, v, bias, causal, scale)
    if mask is not None:  # the fused kernel reports 0 where it saw no key
        seen = mask[:, 0].cumsum(-1) > 0 if causal else mask.any(-1)
        lse = lse.masked_fill(~seen[:, None], -torch.inf)
    return out[..., :Dv], lse


def exact_causal(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, backend: str = "auto"
) -> Partial:
    """Exact attention of the last Nq positions, each over the keys up to its own."""
    past = k.shape[2] - q.shape[2]
    seen, own = (None, None) if mask is None else (mask[:, :past], mask[:, past:])
    square = exact_partial(q, k[:, :, past:], v[:, :, past:], scale, causal=True, mask=own, backend=backend)
    if past == 0:
        return square
    return merge(
        [square, exact_partial(q, k[:, :, :past], v[:, :, :past], scale, mask=seen, backend=backend)]
    )


@torch.library.custom_op("multipole_lab::fused_attention", mutates_args=())
def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """``softmax(scale q k^T + bias) v`` and its log-sum-exp, equal heads and head sizes; bias [B, 1, 1 or Nq, Nk]."""
    if q.device.type == "cpu":
        # Torch's kernel takes a contiguous last dimension for granted.
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias, scale=scale
        )
        return out.contiguous(), lse.contiguous()
    return plain_attention(q, k, v, bias, causal, scale)


@fused_attention.register_fake
def _(q, k, v, bias, causal, scale):
    lse = q.new_empty(q.shape[:-1], dtype=statistics_dtype(q.dtype))
    return q.new_empty(*q.shape[:-1], v.shape[-1]), lse


@torch.library.custom_op("multipole_lab::fused_attention_backward", mutates_args=())
def fused_attention_backward(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    bias: Tensor | None, causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients for q, k and v from those of out and lse.

    Torch's kernel knows only the gradient of ``out``, through ``delta = sum(dout * out)``. The log-sum-exp
    enters the formula as ``delta - dlse``, so one more coordinate with dout = 1 and out = -dlse, and zeros in q, k
    and v, makes the kernel compute both.
    """
    if q.device.type != "cpu":
        return plain_backward(dout, dlse, q, k, v, out, lse, bias, causal, scale)
    dout_, q_, k_, v_, out_ = (x.to(lse.dtype) for x in (dout, q, k, v, out))
    grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        torch.cat([dout_, torch.ones_like(lse).unsqueeze(-1)], -1),
        *(pad(x, (0, 1)) for x in (q_, k_, v_)),
        torch.cat([out_, -dlse.unsqueeze(-1)], -1),
        lse,
        0.0,
        causal,
        attn_mask=None if bias is None else bias.to(lse.dtype),
        scale=scale,
    )
    return tuple(g[..., :-1].to(q.dtype).contiguous() for g in grads)


@fused_attention_backward.register_fake
def _(dout, dlse, q, k, v, out, lse, bias, causal, scale):
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))


def _save(ctx, inputs, output):
    q, k, v, bias, ctx.causal, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output, bias)


def _backward(ctx, dout, dlse):
    q, k, v, out, lse, bias = ctx.saved_tensors
    dout = torch.zeros_like(out) if dout is None else dout
    dlse = torch.zeros_like(lse) if dlse is None else dlse
    # For a second derivative the backward has to be differentiable itself: as a formula, in memory of Nq x Nk.
    backward = plain_backward if differentiated_again() else fused_attention_backward
    grads = backward(dout, dlse, q, k, v, out, lse, bias, ctx.causal, ctx.scale)
    return *grads, None, None, None


fused_attention.register_autograd(_backward, setup_context=_save)


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float
) -> Partial:
    """The same by the formula: for devices without a fused kernel, and for derivatives of every kind and order."""
    q, k, v_ = (x.to(statistics_dtype(x.dtype)) for x in (q, k, v))
    logits = _logits(q, k, bias, causal, scale)
    # A query that sees no key: the derivatives of its log-sum-exp would be NaN, and pass any mask behind.
    blind = (logits == -torch.inf).all(-1, keepdim=True)
    logits = logits.masked_fill(blind, 0.0)
    lse = logits.logsumexp(-1, keepdim=True)
    weights = (logits - lse).exp().masked_fill(blind, 0.0)
    return (weights @ v_).to(v.dtype), lse.masked_fill(blind, -torch.inf).squeeze(-1)


def plain_backward(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    bias: Tensor | None, causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Its gradients: with P = exp(logits - lse), dv = P^T dout and ds = P (dout v^T - sum(dout * out) + dlse).

    Written out, because automatic differentiation is off inside an operator; differentiable itself.
    """
    wide = statistics_dtype(q.dtype)
    dout_, q_, k_, v_, out_ = (x.to(wide) for x in (dout, q, k, v, out))
    logits = _logits(q_, k_, bias, causal, scale)
    weights = (logits - lse.masked_fill(lse == -torch.inf, torch.inf).unsqueeze(-1)).exp()
    change = dout_ @ v_.mT - (dout_ * out_).sum(-1, keepdim=True) + dlse.unsqueeze(-1)
    slope = scale * weights * change
    return tuple(x.to(q.dtype) for x in (slope @ k_, slope.mT @ q_, weights.mT @ dout_))


def _logits(q: Tensor, k: Tensor, bias: Tensor | None, causal: bool, scale: float) -> Tensor:
    logits = scale * q @ k.mT
    if bias is not None:
        logits = logits + bias
    if causal:
        visible = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).tril()
        logits = logits.masked_fill(~visible, -torch.inf)
    return logits
