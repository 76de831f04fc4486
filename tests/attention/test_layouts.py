"""The same numbers whatever the strides: of q, k, v, the mask, and the gradients that come back."""

import pytest
import torch
from every_method import METHODS, classes

from multipole_lab.testing import EXPANDED, LAYOUTS

ALL = LAYOUTS | EXPANDED
NAMES = ("q", "k", "v", "dout", "dlse")
# The layouts of one tensor among contiguous ones; all of them together take every layout.
ALONE = ("channels before positions", "every second channel", "all reversed")
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
full_and_causal = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])


def numbers(Nq=19, Nk=19):
    """q, k, v and the gradients of out and lse."""
    g = torch.Generator().manual_seed(0)
    shapes = (2, 2, Nq, 4), (2, 1, Nk, 4), (2, 1, Nk, 3), (2, 2, Nq, 3), (2, 2, Nq)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


def results(method, causal, q, k, v, dout, dlse, mask=None):
    inputs = [x.detach().requires_grad_() for x in (q, k, v)]
    out, lse = method(*inputs, causal=causal, mask=mask, return_lse=True)
    grads = torch.autograd.grad((out, lse), inputs, (dout, dlse))
    return dict(zip(("out", "lse", "dq", "dk", "dv"), (out.detach(), lse.detach(), *grads), strict=True))


def check_equal(got, wanted, words):
    for name, want in wanted.items():
        torch.testing.assert_close(
            got[name], want, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{words}, {name}: {text}"
        )


def test_every_method_is_looked_at():
    assert {type(method) for method in METHODS.values()} == classes()


@pytest.mark.parametrize("layout", ALL)
def test_a_layout_keeps_what_it_promises(layout):
    for x in numbers():
        laid = ALL[layout](x)
        assert laid.shape == x.shape
        assert layout in EXPANDED or torch.equal(laid, x)
        assert laid.storage_offset() > 0 or not laid.is_contiguous() or 1 in x.shape


@full_and_causal
@every_method
def test_numbers_do_not_depend_on_strides(method, causal):
    base = numbers()
    wanted = results(method, causal, *base)
    for layout, lay in LAYOUTS.items():
        for which in (*(range(5) if layout in ALONE else ()), None):
            laid = [lay(x) if which in (i, None) else x for i, x in enumerate(base)]
            words = f"{layout} of {'all' if which is None else NAMES[which]}"
            check_equal(results(method, causal, *laid), wanted, words)


@full_and_causal
@every_method
def test_numbers_do_not_depend_on_zero_strides(method, causal):
    base = numbers()
    for layout, lay in EXPANDED.items():
        for which in range(3) if layout.endswith("entry for all") else range(5):
            laid = [lay(x) if which == i else x for i, x in enumerate(base)]
            wanted = results(method, causal, *(x.contiguous() for x in laid))
            check_equal(results(method, causal, *laid), wanted, f"{layout} of {NAMES[which]}")


@full_and_causal
@every_method
def test_a_mask_of_any_layout(method, causal):
    base = numbers(Nq=13)
    mask = torch.ones(2, 19, dtype=torch.bool)
    mask[1, 12:] = False
    wanted = results(method, causal, *base, mask)
    laid = torch.stack([mask, ~mask], -1)[..., 0], mask.T.contiguous().T
    for one in laid:
        assert not one.is_contiguous()
        check_equal(results(method, causal, *base, one), wanted, "mask")
    same = mask[:1].expand(2, 19)
    check_equal(
        results(method, causal, *base, same),
        results(method, causal, *base, same.contiguous()),
        "one mask for all",
    )
