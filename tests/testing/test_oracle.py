"""The oracle against its own definitions, and every method against the oracle."""

from itertools import pairwise

import pytest
import torch
from every_method import METHODS

from multipole_lab.testing import assert_close, expected, oracle, orthonormal, qkv, ragged_labels

S = 0.4


def one_head(Nq=13, Nk=29, D=5, Dv=3):
    return [x[0, 0] for x in qkv(1, (1, 1), Nq, Nk, D, Dv)]


SIZES = [(21, 21, False), (9, 30, False), (30, 21, False), (21, 21, True), (9, 30, True)]


@pytest.mark.parametrize(("queries", "keys", "causal"), SIZES, ids=str)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_is_what_the_oracle_says(method, queries, keys, causal):
    q, k, v = qkv(2, (4, 2), queries, keys, 6, 5)
    got = method(q, k, v, causal=causal, return_lse=True)
    for name, ours, wanted in zip(("out", "lse"), got, expected(method, q, k, v, causal=causal), strict=True):
        assert_close(name, ours, wanted)


def test_a_method_without_a_formula_is_refused():
    with pytest.raises(TypeError, match=r"method is 3; MuSe, Centroid"):
        expected(3, *qkv(1, (1, 1), 2, 2, 2, 2))


def test_the_first_derivatives_are_the_moments():
    """grad_p a = s k~, and grad_p v~ = s M."""
    p, k, v = one_head(Nq=1)
    by_mass, by_value = torch.autograd.functional.jacobian(
        lambda p: (oracle.summary(p, k, v, S).mass, oracle.summary(p, k, v, S).value), p[0]
    )
    assert_close("k~", by_mass / S, oracle.summary(p[0], k, v, S).key)
    assert_close("M", by_value / S, oracle.dipole(p[0], k, v, S))


def test_an_expansion_is_exact_at_its_point():
    """With one query a cluster, and whatever is near, padded or empty."""
    q, k, v = one_head()
    labels = ragged_labels([29], 5, empty=[1], padding=3)
    wanted = oracle.exact(q, k[:26], v[:26], S)
    for near in (0, 2, 5):
        for order in ("monopole", "dipole"):
            got = oracle.muse(q, k, v, torch.arange(13), labels, near=near, s=S, order=order)
            for name, ours, exact in zip(("out", "lse"), got, wanted, strict=True):
                assert_close(name, ours, exact)


def test_all_near_and_one_key_a_cluster_are_exact():
    q, k, v = one_head()
    q_labels, wanted = ragged_labels([13], 3), oracle.exact(q, k, v, S)
    for got in (
        oracle.muse(q, k, v, q_labels, ragged_labels([29], 4), near=4, s=S),
        oracle.muse(q, k, v, q_labels, torch.arange(29), s=S),
        oracle.centroid(q, k, v, torch.arange(29), s=S),
        oracle.centroid(q, k, v, ragged_labels([29], 4), opened=29, s=S),
    ):
        for name, ours, exact in zip(("out", "lse"), got, wanted, strict=True):
            assert_close(name, ours, exact)


def test_a_basis_of_all_directions_changes_nothing_and_one_of_few_does():
    q, k, v = one_head()
    given = q, k, v, ragged_labels([13], 3), ragged_labels([29], 4)
    whole, _ = oracle.muse(*given, s=S, order="dipole")
    turned, _ = oracle.muse(*given, orthonormal((3, 5), 5), s=S, order="dipole")
    few, _ = oracle.muse(*given, orthonormal((3, 5), 2), s=S, order="dipole")
    assert_close("out", turned, whole)
    assert (few - whole).norm() > 1e-3 * whole.norm()


def test_a_merge_of_any_split_is_exact_and_nothing_adds_nothing():
    q, k, v = one_head()
    parts = [oracle.exact(q, k[a:b], v[a:b], S) for a, b in pairwise((0, 1, 1, 17, 29))]
    for name, ours, exact in zip(("out", "lse"), oracle.merge(parts), oracle.exact(q, k, v, S), strict=True):
        assert_close(name, ours, exact)
    out, lse = oracle.merge([parts[1], parts[1]])
    assert (out == 0).all()
    assert (lse == -torch.inf).all()


def test_queries_of_padding_see_nothing_and_have_finite_gradients():
    q, k, v = (x.requires_grad_() for x in one_head())
    labels = ragged_labels([13], 3, padding=2), ragged_labels([29], 4, empty=[0, 2], padding=5)
    out, lse = oracle.muse(q, k, v, *labels, near=1, s=S, order="dipole")
    assert (out[-2:] == 0).all()
    assert (lse[-2:] == -torch.inf).all()
    grads = torch.autograd.grad(out.square().sum() + lse[:-2].sum(), (q, k, v))
    assert all(grad.isfinite().all() for grad in grads)
    assert not any(grad[-2:].any() for grad in grads)


def test_clusters_are_taken_until_one_does_not_fit():
    assert oracle.prefix([3.0, 5.0, 5.0, 1.0], [2, 3, 0, 1], 5) == [1, 0]
    assert oracle.prefix([3.0, 5.0, 5.0, 1.0], [2, 3, 0, 1], 4) == [1]
    assert oracle.prefix([3.0, 5.0, 5.0, 1.0], [2, 3, 4, 1], 6) == [1]  # the third would still fit
    assert oracle.prefix([3.0, 5.0], [1, 1], 9, [0.2, 0.5], 0.4) == [1]
