"""What clusterings refuse: the message names the argument, what came and what is allowed."""

import numpy as np
import pytest
import torch

import multipole_lab as ml

K = torch.zeros(2, 2, 9, 8)
KEPT = torch.ones(2, 9, dtype=torch.bool)
CLUSTERINGS = {
    "kmeans": lambda x, **rest: ml.kmeans(x, clusters=2, **rest),
    "balanced": lambda x, **rest: ml.balanced(x, size=4, **rest),
    "runs": lambda x, **rest: ml.runs(x, size=4, **rest),
}


VECTORS = {
    "no tensor": ([[1.0]], TypeError, r"x is a list; a torch tensor \[B, H, N, D\] is needed"),
    "array": (np.zeros((1, 1, 9, 8)), TypeError, r"x is a ndarray; a torch tensor"),
    "rank 3": (K[0], ValueError, r"x has shape \(2, 9, 8\); four dimensions \[B, H, N, D\] are needed"),
    "rank 5": (K[None], ValueError, r"x has shape \(1, 2, 2, 9, 8\); four dimensions"),
    "integers": (K.int(), TypeError, r"x has dtype torch.int32; a floating dtype is needed"),
    "no vectors": (K[:, :, :0], ValueError, r"x has shape \(2, 2, 0, 8\); no dimension may be empty"),
    "no heads": (K[:, :0], ValueError, r"x has shape \(2, 0, 9, 8\); no dimension may be empty"),
}


@pytest.mark.parametrize("cluster", CLUSTERINGS.values(), ids=CLUSTERINGS)
@pytest.mark.parametrize(("x", "error", "message"), VECTORS.values(), ids=VECTORS)
def test_vectors_that_cannot_be_clustered(cluster, x, error, message):
    with pytest.raises(error, match=message):
        cluster(x)


@pytest.mark.parametrize("cluster", CLUSTERINGS.values(), ids=CLUSTERINGS)
def test_clusterings_take_a_boolean_mask_of_their_shape(cluster):
    with pytest.raises(TypeError, match=r"mask is torch.float32; a boolean tensor is needed"):
        cluster(K, mask=KEPT.float())
    with pytest.raises(ValueError, match=r"mask has shape \(2, 1, 1, 9\); \[B, N\] = \[2, 9\] is needed"):
        cluster(K, mask=KEPT[:, None, None])
    with pytest.raises(ValueError, match=r"mask has shape \(2, 8\); \[B, N\] = \[2, 9\] is needed"):
        cluster(K, mask=KEPT[:, :8])


def test_kmeans_refuses_its_own_arguments():
    with pytest.raises(ValueError, match=r"clusters is 10; at most the number of vectors, 9, is allowed"):
        ml.kmeans(K, clusters=10)
    for name, least in (("clusters", 1), ("iterations", 0)):
        with pytest.raises(ValueError, match=rf"{name} is {least - 1}; at least {least} is needed"):
            ml.kmeans(K, **{"clusters": 3, name: least - 1})
        for value in (2.0, True, "auto", None):
            with pytest.raises(TypeError, match=rf"{name} is .*; an integer is needed"):
                ml.kmeans(K, **{"clusters": 3, name: value})
    with pytest.raises(
        ValueError, match=r"init is 'kmeans\+\+'; allowed are 'random', 'strided', 'k-means\+\+'"
    ):
        ml.kmeans(K, clusters=3, init="kmeans++")
    with pytest.raises(ValueError, match=r"init has shape \(2, 2, 4, 8\); \[B, H, 3, 8\] is needed"):
        ml.kmeans(K, clusters=3, init=K[:, :, :4])


@pytest.mark.parametrize("make", [ml.balanced, ml.runs])
def test_a_block_size_that_is_no_positive_integer(make):
    for value in (4.0, True, None):
        with pytest.raises(TypeError, match=r"size is .*; an integer is needed"):
            make(K, size=value)
    with pytest.raises(ValueError, match=r"size is 0; at least 1 is needed"):
        make(K, size=0)


def test_balanced_refuses_other_sizes_and_metrics():
    with pytest.raises(ValueError, match=r"size is 6; a power of two is needed"):
        ml.balanced(K, size=6)
    with pytest.raises(ValueError, match=r"metric has shape \(2, 1, 8, 8\).*\[B, H, D, D\] = \[2, 2, 8, 8\]"):
        ml.balanced(K, size=4, metric=torch.zeros(2, 1, 8, 8))
