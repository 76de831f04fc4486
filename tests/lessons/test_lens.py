"""What a query looks at: the method's own weights, through the clusters that the method has."""

import numpy as np
import pytest
import torch

import multipole_lab as ml
from multipole_lab.lessons.lens import ONE_BY_ONE, UNSEEN, Lens, Look, typical_tokens
from multipole_lab.lessons.matrices import Cells, exact_pairs, share

N, SCALE = 75, 0.4
METHODS = [
    ml.MuSe(clusters=5, near=1, leaf=16),
    ml.MuSe(clusters=4, order="dipole", near=2, leaf=16, query_clusters=3),
    ml.MuSe(clusters=6, leaf=10, partition="runs"),
    ml.MuSe(clusters=6, leaf=10, near=2, near_for="query"),
]


@pytest.fixture(scope="module")
def head():
    return [torch.randn(1, 1, N, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_look_is_the_row_of_the_matrix_and_sums_the_same_keys_one_by_one(head, method, causal):
    q, k, _ = head
    cells = Cells(np.arange(N), np.arange(N), N)
    lens = Lens(method, q, k, causal, SCALE)
    wanted = [share(one, q, k, cells, causal, SCALE) for one in (ml.Exact(), method)]
    summed, seen = exact_pairs(method, q, k, cells, causal, SCALE)
    for t in (0, 9, 10, 37, 60, N - 1):
        look = lens.at(t)
        np.testing.assert_allclose(look.exact, wanted[0][t], atol=1e-5)
        np.testing.assert_allclose(look.approximate, wanted[1][t], atol=1e-5)
        np.testing.assert_array_equal(look.cluster == ONE_BY_ONE, summed[t] > 0)
        np.testing.assert_array_equal(look.cluster == UNSEEN, seen[t] == 0)


def test_the_keys_of_one_cluster_share_its_weight_by_their_tilt(head):
    """A cluster's number names the cluster that k-means finds, and two blocks share no number."""
    q, k, _ = head
    look = Lens(ml.MuSe(clusters=5), q, k, False, SCALE).at(3)
    np.testing.assert_array_equal(look.cluster, ml.kmeans(k, 5, cap=1.5).labels[0, 0])
    numbers = Lens(ml.MuSe(clusters=3, leaf=10), q, k, True, SCALE).at(N - 1).cluster
    far = numbers >= 0
    blocks = np.arange(N)[far] // 10
    assert not set(numbers[far][blocks == blocks[-1]]) & set(numbers[far][blocks == blocks[0]])


def test_a_weight_has_moved_by_half_a_percent_and_a_fifth_of_itself():
    exact = np.array([0.9, 0.05, 0.002, 0.0, 0.03])
    look = Look(exact, exact + np.array([-0.1, 0.02, 0.004, 0.006, -0.01]), np.zeros(5, int))
    assert look.moved.tolist() == [0, 1, 0, 1, -1]


def test_a_cluster_is_named_by_the_words_that_it_has_and_others_have_not():
    tokens = [" the", " lamp", "Lamp", " the", " the", " light", "\n", " the"]
    numbers = np.array([0, 0, 0, -1, -2, 0, 3, -1])
    assert typical_tokens(tokens, numbers) == {0: ["lamp", "light", "the"], 3: ["\n"]}
    assert typical_tokens(tokens, numbers, most=1)[0] == ["lamp"]


def test_what_has_no_look_is_said_in_words(head):
    q, k, _ = head
    with pytest.raises(ValueError, match="without"):
        Lens(ml.MuSe(sinks=2), q, k, False, SCALE)
    with pytest.raises(ValueError, match="positions 0 to 74, got 75"):
        Lens(ml.MuSe(clusters=4), q, k, False, SCALE).at(N)
