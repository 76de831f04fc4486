"""Every operator that the package registers, by torch's own check and in every layout; a new one is covered as soon as
a method calls it, and missed here until one does."""

import pytest
import torch
from every_method import METHODS
from torch.utils._python_dispatch import TorchDispatchMode

from multipole_lab.attention.calls import opaque
from multipole_lab.testing import LAYOUTS

# Of a layer with a cache, which keeps something between its calls: tried in tests/decoding/test_decode_compile.py.
OF_LAYERS = {"cached_attention"}


def registered() -> set[str]:
    names = torch._C._dispatch_get_all_op_names()
    return {
        name.split("::")[1].split(".")[0] for name in names if name.startswith("multipole_lab::")
    } - OF_LAYERS


class Calls(TorchDispatchMode):
    """Notes the first call of every operator with each combination of choices and of tensors that are not given."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "multipole_lab":
            key = func.name(), str([x if isinstance(x, str | bool | None) else type(x) for x in args])
            self.seen.setdefault(key, (func, torch.utils._pytree.tree_map(_copy, args)))
        return func(*args, **(kwargs or {}))


def _copy(x):
    return x.detach().clone() if isinstance(x, torch.Tensor) else x


@pytest.fixture(scope="module")
def calls():
    """What the methods call, forward and backward, full and causal, with and without padding."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, H, 19, D, generator=g) for H, D in ((2, 4), (1, 4), (1, 3)))
    mask = torch.ones(2, 19, dtype=torch.bool)
    mask[1, 15:] = False
    with Calls() as calls:
        for method in METHODS.values():
            for causal in (False, True):
                for padding in (None, mask):
                    x = [t.clone().requires_grad_() for t in (q, k, v)]
                    method(*x, causal=causal, mask=padding).sum().backward()
            x = [t.clone().requires_grad_() for t in (q, k, v)]  # as torch.compile calls it, in one node
            opaque.attend(*x, mask, 0.5, True, opaque.written(method))[0].sum().backward()
    return list(calls.seen.values())


def test_every_operator_is_called(calls):
    missed = registered() - {func.name().split("::")[1].split(".")[0] for func, _ in calls}
    assert not missed, f"no method in tests/helpers/every_method.py calls {missed}"


def test_opcheck(calls):
    """Schema, autograd, the fake's shapes, dtypes and strides, and tracing, with inputs as they come."""
    for func, args in calls:
        torch.library.opcheck(func, with_gradients(func, args), test_utils=("test_schema", "test_faketensor"))
    for func, args in {func: (func, args) for func, args in calls}.values():
        torch.library.opcheck(func, with_gradients(func, args))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_and_the_same_numbers_in_every_layout(calls, layout):
    lay = LAYOUTS[layout]
    for func, args in {func: (func, args) for func, args in calls}.values():
        laid = torch.utils._pytree.tree_map(
            lambda x: lay(x) if isinstance(x, torch.Tensor) and x.ndim > 2 else x, args
        )
        torch.library.opcheck(func, laid, test_utils=("test_schema", "test_faketensor"))
        got, wanted = func(*laid), func(*args)
        for a, b in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (got, wanted)), strict=True):
            torch.testing.assert_close(a, b, msg=lambda text, func=func: f"{func}, {layout}: {text}")


def with_gradients(func, args):
    """The arguments, of which floating ones ask for a gradient where the operator has one."""
    differentiable = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "Autograd")
    has_backward = differentiable and not func.name().endswith("_backward")
    first = [x.clone().requires_grad_() if has_backward and _floating(x) else x for x in args[:3]]
    return (*first, *args[3:])


def _floating(x):
    return isinstance(x, torch.Tensor) and x.is_floating_point()
