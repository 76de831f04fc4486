"""The tests' interpreter gives what Triton's own gives, and leaves the language as it was."""

import pytest
import torch
from surroundings import quick_interpreter

import multipole_lab as ml

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here")


def attended():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 9, 16, generator=g, requires_grad=True) for _ in "qkv")
    out = ml.MuSe(clusters=2, near=1, backend="triton")(q, k, v)
    return [out.detach(), *torch.autograd.grad(out.sum(), (q, k, v))]


def test_the_numbers_are_those_of_tritons_own_interpreter(monkeypatch):
    from triton.runtime import interpreter

    quick = attended()
    assert interpreter._patch_lang is not quick_interpreter.OWN["_patch_lang"]
    for name, own in quick_interpreter.OWN.items():
        monkeypatch.setattr(interpreter, name, own)
    for got, want in zip(quick, attended(), strict=True):
        assert torch.equal(got, want)


def test_after_a_launch_that_fails_the_language_is_whole_again():
    import triton
    import triton.language as tl

    @triton.jit
    def fails(x):
        tl.load(x + tl.sum(tl.arange(0, 4), 0)) + tl.zeros((3,), tl.float32)

    before = {name: getattr(tl, name) for name in ("load", "store", "arange", "static_range")}
    with pytest.raises(Exception, match="power of 2"):
        fails[(1,)](torch.zeros(9))
    assert {name: getattr(tl, name) for name in before} == before
    attended()
    assert {name: getattr(tl, name) for name in before} == before
