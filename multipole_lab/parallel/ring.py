"""Ring attention (Liu et al., 2310.01889): exact, every key and value passes every rank. The baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from multipole_lab.attention.exact import exact_partial, fused_attention_backward
from multipole_lab.attention.method import Method
from multipole_lab.attention.partials import Partial, merge
from multipole_lab.clustering.clusters import statistics_dtype
from multipole_lab.parallel.agreement import Parts, agree
from multipole_lab.parallel.channel import Channel, Traffic


@dataclass(frozen=True)
class RingAttention(Method):
    """Exact attention of this rank's queries over the keys of all ranks.

    Keys and values go round: in P - 1 steps each rank attends to the block it holds and passes it to the next. In the
    backward they go round again, together with their gradients, which take one step more to come home. A rank with n
    keys sends, in w bytes a number (the dtype's), with the gradients in float32 at least (w'):

        forward   w B Hk (N - n') (D + Dv),  backward   (w (N - n') + w' N) B Hk (D + Dv)

    where n' is the part of the rank behind it, which it alone does not pass on: linear in N. Causal attention sends
    the same, and computes what the triangle needs.

    Parameters and errors as ``ContextParallel``'s; a mask is refused.
    """

    group: dist.ProcessGroup | None = None
    traffic: Traffic | None = field(default=None, compare=False, repr=False)

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return self._around(q, k, v, scale, mask, causal=False)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return self._around(q, k, v, scale, mask, causal=True)

    def _around(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, causal: bool
    ) -> Partial:
        if mask is not None:
            raise ValueError("a mask or lengths is given; ring attention takes none")
        channel = Channel(self.group, self.traffic)
        parts = agree(channel, q, k, v, causal, scale, "ring")
        return _Ring.apply(q, k, v, channel, parts, causal, scale)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, channel: Channel, parts: Parts, causal: bool, scale: float):
        partials = None
        block = torch.cat([k, v], -1)
        for step in range(channel.ranks):
            owner = (channel.rank - step) % channel.ranks
            following = None
            if step + 1 < channel.ranks:  # it travels while this rank computes
                following = pass_on(channel, "ring", block, parts.keys[owner - 1])
            if not causal or owner <= channel.rank:
                keys, values = block.split([k.shape[-1], v.shape[-1]], -1)
                out, lse = exact_partial(q, keys, values, scale, causal=causal and owner == channel.rank)
                new = out.to(lse.dtype), lse
                partials = new if partials is None else merge([partials, new])
            if following is not None:
                block = following()
        out, lse = partials
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.settings = channel, parts, causal, scale
        return out.to(q.dtype), lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dlse):
        q, k, v, out, lse = ctx.saved_tensors
        channel, parts, causal, scale = ctx.settings
        block = torch.cat([k, v], -1)
        dblock = torch.zeros_like(block, dtype=statistics_dtype(block.dtype))
        dq = torch.zeros_like(q, dtype=dblock.dtype)
        for step in range(channel.ranks):
            owner = (channel.rank - step) % channel.ranks
            incoming, following = parts.keys[owner - 1], None
            if step + 1 < channel.ranks:
                following = pass_on(channel, "ring gradient", block, incoming)
            if not causal or owner <= channel.rank:
                keys, values = block.split([k.shape[-1], v.shape[-1]], -1)
                own = causal and owner == channel.rank
                grads = block_gradients(q, keys, values, out, lse, dout, dlse, scale, own)
                dq += grads[0]
                dblock += torch.cat(grads[1:], -1)
            if following is not None:
                block = following()
            dblock = pass_on(channel, "ring gradient", dblock, incoming)()
        dk, dv = dblock.split([k.shape[-1], v.shape[-1]], -1)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None, None


def pass_on(channel: Channel, kind: str, block: Tensor, incoming: int) -> Callable[[], Tensor]:
    """Begin to send a block [B, Hk, n, F] to the next rank; what is returned waits for the one that comes from the rank
    before, of ``incoming`` keys."""
    to, source = ((channel.rank + step) % channel.ranks for step in (1, -1))
    shape = (*block.shape[:2], incoming, block.shape[3])
    message = channel.start(kind, {to: [block]}, {source: [shape]}, [block])
    return lambda: message.wait()[source][0]


def block_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    dlse: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What one block of keys contributes to the gradients, given the result over all blocks.

    The block's weights are ``exp(s q.k - lse)`` with the log-sum-exp over all keys, so torch's fused backward takes
    the final ``out`` and ``lse`` as they are. Elsewhere than on a CPU the block's own result is computed again, in the
    dtype of q, k and v.
    """
    dtype = lse.dtype
    if q.device.type != "cpu" or scale <= 0:
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in (q, k, v)]
            part, part_lse = exact_partial(*inputs, scale, causal=causal)
            # out = sum_b exp(lse_b - lse) out_b, differentiated by the block's own out_b and lse_b.
            share = (part_lse - lse).exp().detach()
            dpart_lse = share * (dlse + (dout * (part.detach() - out)).sum(-1))
            dpart = (share.unsqueeze(-1) * dout).to(part.dtype)
            return torch.autograd.grad((part, part_lse), inputs, (dpart, dpart_lse))
    q, k, v, dout = (x.to(dtype) for x in (q, k, v, dout))
    B, Hk, n, D = k.shape
    Dv, size = v.shape[-1], max(D, v.shape[-1])
    k, v = (x.repeat_interleave(q.shape[1] // Hk, 1) for x in (k, v))
    dout, q, k, v, out = (pad(x, (0, size - x.shape[-1])) for x in (dout, q, k, v, out))
    dq, dk, dv = fused_attention_backward(dout, dlse, q, k, v, out, lse, None, causal, scale)
    dk, dv = (x.view(B, Hk, -1, n, size).sum(2) for x in (dk, dv))
    return dq[..., :D], dk[..., :D], dv[..., :Dv]


def ring_attention(
    q: Float[Tensor, "B Hq n D"],
    k: Float[Tensor, "B Hk n D"],
    v: Float[Tensor, "B Hk n Dv"],
    *,
    causal: bool = False,
    group: dist.ProcessGroup | None = None,
    traffic: Traffic | None = None,
    **options: object,
) -> Float[Tensor, "B Hq n Dv"]:
    """``RingAttention(group, traffic)(q, k, v, causal=causal, **options)`` for this rank's part."""
    return RingAttention(group, traffic)(q, k, v, causal=causal, **options)
