"""Every way in which the same numbers of a [B, H, N, D] tensor can lie in memory."""

import torch


def _buffer(x, shape):
    return torch.full(shape, float("nan") if x.is_floating_point() else -77, dtype=x.dtype, device=x.device)


def _offset(x):
    storage = _buffer(x, (x.numel() + 7,))
    storage[7:] = x.flatten()
    return storage[7:].view(x.shape)


def _sliced(x, dim):
    """Every second entry of a dimension of something twice as large."""
    shape = list(x.shape)
    shape[dim] *= 2
    out = _buffer(x, shape)
    view = out[(slice(None),) * dim + (slice(None, None, 2),)]
    view.copy_(x)
    return view


def _cut(x, dim):
    """A dimension's middle part of something longer, as one of q, k and v lies in what one product made."""
    shape = list(x.shape)
    shape[dim] += 3
    out = _buffer(x, shape)
    view = out.narrow(dim, 1, x.shape[dim])
    view.copy_(x)
    return view


def _permuted(x, *order):
    return x.permute(order).contiguous().permute([order.index(i) for i in range(x.ndim)])


# Each gives the numbers that it is given. Of one dimension fewer ([B, H, N]) those are taken that make sense there.
LAYOUTS = {
    "positions before heads": lambda x: _permuted(x, 0, 2, 1, *range(3, x.ndim)),
    "heads before batch": lambda x: _permuted(x, 1, 0, *range(2, x.ndim)),
    "channels before positions": lambda x: x.mT.contiguous().mT,
    "all reversed": lambda x: _permuted(x, *reversed(range(x.ndim))),
    "every second channel": lambda x: _sliced(x, x.ndim - 1),
    "every second position": lambda x: _sliced(x, 2),
    "part of longer channels": lambda x: _cut(x, x.ndim - 1),
    "part of more heads": lambda x: _cut(x, 1),
    "offset into storage": _offset,
}

# These change the numbers: all entries of a dimension become its first.
EXPANDED = {
    "one batch entry for all": lambda x: x[:1].expand(x.shape),
    "one head for all": lambda x: x[:, :1].expand(x.shape),
    "one position for all": lambda x: x[:, :, :1].expand(x.shape),
    "one channel for all": lambda x: x[..., :1].expand(x.shape),
    "one number for all": lambda x: x.flatten()[:1].view((1,) * x.ndim).expand(x.shape),
}
