"""The toy obeys the identities of the expansion."""

import numpy as np
import pytest

from multipole_lab.lessons import toy

P = np.array([0.9, -0.4])


def test_every_expansion_is_exact_where_it_is_made():
    sources = toy.make_toy(clusters=3)
    exact = toy.truth(sources, P[None])
    for order in ("monopole", "dipole"):
        field = toy.expand(sources, P, P[None], order)
        np.testing.assert_allclose(field.potential, exact.potential)
        np.testing.assert_allclose(field.output, exact.output)


def test_the_tilted_centroid_is_the_gradient_of_the_mass_and_the_dipole_that_of_the_value():
    sources, h = toy.make_toy(clusters=2), 1e-5
    here = toy.moments(sources, P)
    for i, step in enumerate(np.eye(2) * h):
        ahead, behind = toy.moments(sources, P + step), toy.moments(sources, P - step)
        np.testing.assert_allclose((ahead.mass - behind.mass) / (2 * h), here.key[:, i], atol=1e-8)
        np.testing.assert_allclose((ahead.value - behind.value) / (2 * h), here.dipole[:, i], atol=1e-8)


def test_at_the_origin_the_expansion_is_centroid_replacement():
    sources = toy.make_toy(clusters=2, keys=5)
    moments = toy.moments(sources, np.zeros(2))
    np.testing.assert_allclose(moments.mass, np.log([5, 5]))
    np.testing.assert_allclose(moments.key, [sources.keys[:5].mean(0), sources.keys[5:].mean(0)])


def test_one_key_per_cluster_is_exact_everywhere():
    sources = toy.make_toy(clusters=4, keys=1)
    _, points = toy.grid(steps=9)
    exact, field = toy.truth(sources, points), toy.expand(sources, P, points, "monopole")
    np.testing.assert_allclose(field.output, exact.output)


def test_the_dipole_is_better_near_p():
    sources = toy.make_toy()
    near = P + 0.2 * np.random.default_rng(0).standard_normal((50, 2))
    exact = toy.truth(sources, near).output
    errors = [np.abs(toy.expand(sources, P, near, o).output - exact).mean() for o in ("monopole", "dipole")]
    assert errors[1] < 0.5 * errors[0]


def test_weights_sum_to_one_in_each_cluster():
    sources = toy.make_toy(clusters=3)
    np.testing.assert_allclose(np.bincount(sources.labels, toy.weights(sources, P)), 1)


def test_bad_choices_are_named():
    with pytest.raises(ValueError, match="clusters and keys"):
        toy.make_toy(clusters=0)
    with pytest.raises(ValueError, match="'monopole' or 'dipole', got 'quadrupole'"):
        toy.expand(toy.make_toy(), P, P[None], "quadrupole")
