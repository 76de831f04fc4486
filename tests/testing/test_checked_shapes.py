"""Annotated shapes are checked while the tests run, and nowhere else."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, Int
from surroundings import checked_shapes
from torch import Tensor

import multipole_lab as ml
from multipole_lab.attention.partials import merge

X = torch.zeros(2, 3)


@checked_shapes.checked
def product(
    a: Float[Tensor, "n m"], b: Float[Tensor, "m k"] | None, wrong: bool = False
) -> Float[Tensor, "n k"]:
    """Refuses what does not fit, unless it is to be wrong."""
    if wrong:
        return a
    if b is not None and a.shape[1] != b.shape[0]:
        raise ValueError("no product")
    return a @ (a.mT if b is None else b)


def test_shapes_that_agree_pass():
    assert product(X, X.mT).shape == product(X, None).shape == (2, 2)


def test_a_refusal_keeps_its_words():
    with pytest.raises(ValueError, match="no product"):
        product(X, X)


def test_a_wrong_result_and_a_wrong_argument_are_named():
    with pytest.raises(
        AssertionError, match=r"product: return is float32\[2, 3\], .*'n k'.*'b': 'float32\[3, 2\]'"
    ):
        product(X, X.mT, wrong=True)
    with pytest.raises(AssertionError, match=r"product: a is int64\[2, 3\]"):
        product(X.long(), None)


def test_fields_of_a_dataclass_have_their_shapes():
    @dataclass(frozen=True)
    class Pair:
        x: Float[Tensor, "n m"]
        at: Int[Tensor, " n"]

    checked_shapes.wrap_class(Pair)
    Pair(X, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(AssertionError, match=r"Pair: at is int64\[3\]"):
        Pair(X, torch.zeros(3, dtype=torch.int64))


def test_the_library_is_checked_here_also_under_vmap_and_not_in_a_compiled_call():
    assert merge.__wrapped__.__module__ == "multipole_lab.attention.partials"
    assert "checked_shapes" in merge.__code__.co_filename
    torch.func.vmap(product, (0, None))(X.expand(4, 2, 3), X.mT)
    with pytest.raises(AssertionError, match="return is"):
        torch.func.vmap(lambda x: product(x, X.mT, wrong=True))(X.expand(4, 2, 3))
    compiled = torch.compile(lambda x: product(x, X.mT, wrong=True), fullgraph=True, backend="eager")
    assert torch.equal(compiled(X), X)


def test_no_other_process_checks():
    code = "import sys, multipole_lab.attention; print('beartype' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
    assert ml.attention
