"""The hierarchy of causal blocks: what is drawn where, and the errors behind it against whole attention."""

import numpy as np
import pytest
import torch

from multipole_lab import figures
from multipole_lab.attention import Exact, MuSe
from multipole_lab.lessons.block_errors import block_errors
from multipole_lab.measure.errors import relative_squared_error

ERRORS = [np.array([0.01, 0.02, 0.03, np.nan]), np.array([0.1, 0.0]), np.array([0.04])]
MASSES = [np.array([0.1, 0.2, 0.3, np.nan]), np.array([0.5, 0.4]), np.array([0.9])]
ERRORS[0][3] = 0.0


def words(fig):
    return fig.layout.title.text.replace("<br>", " ")


def draw(**more):
    return figures.blocks(800, 100, ERRORS, MASSES, rse=0.2, **more)


def test_every_pair_of_the_causal_triangle_is_in_one_block_of_its_level():
    grid = np.asarray(draw().data[0].z).astype(float)
    query, key = np.mgrid[:8, :8]
    # the level of a block is the highest binary digit in which its query and its key differ
    wanted = np.where(query == key, 0, np.floor(np.log2(np.maximum(query ^ key, 1))) + 1)
    wanted = np.where(key > query, np.nan, wanted)
    wanted[7, 6] = np.nan  # the pair that is beyond the end
    np.testing.assert_array_equal(grid, wanted)


def test_error_and_mass_colour_each_block_by_its_own_number():
    assert np.asarray(draw(colour="error").data[0].z)[2, 1] == pytest.approx(-1)
    assert np.asarray(draw(colour="mass").data[0].z)[7, 0] == 0.9
    assert np.asarray(draw(colour="error").data[0].z)[3, 3] is None  # leaves have no error


def test_bars_add_up_each_level_and_the_title_names_the_worst():
    fig = draw()
    assert fig.data[2].y == pytest.approx([0, 0.06, 0.1, 0.04])
    assert list(fig.data[2].x) == ["leaf, exact", "100 keys", "200 keys", "400 keys"]
    assert "error 0.20 with 13% of the pairs exact; 50% of it from blocks of 200 keys" in words(fig)


def test_one_leaf_is_all_exact():
    fig = figures.blocks(100, 100, [], [], rse=0.0)
    assert np.asarray(fig.data[0].z).tolist() == [[0]]
    assert "all exact" in words(fig)


def test_another_colour_is_refused():
    with pytest.raises(ValueError, match="level, error, mass, got 'taste'"):
        draw(colour="taste")


def one_head(tokens):
    random = torch.Generator().manual_seed(0)
    return [torch.randn(1, 1, tokens, 8, generator=random) for _ in "qkv"]


@pytest.mark.parametrize("tokens", [256, 201])
def test_block_errors_are_what_replacing_one_block_does(tokens):
    """With a leaf of half the tokens there is one block, so its error is the method's."""
    q, k, v = one_head(tokens)
    method = MuSe(clusters=8, leaf=-(-tokens // 2))
    (level,) = block_errors(q, k, v, method)
    out = method(q, k, v, causal=True)
    assert level.error[0] == pytest.approx(
        float(relative_squared_error(out, Exact()(q, k, v, causal=True))), rel=1e-3
    )
    logits = (q @ k.mT / 8**0.5).masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
    weights = logits.softmax(-1)[0, 0]
    square = weights[level.size :, : level.size]
    assert level.mass[0] == pytest.approx(float(square.sum(-1).mean()), rel=1e-4)
    added = (square @ v[0, 0, : level.size]).square().sum() / (weights @ v[0, 0]).square().sum()
    assert level.added[0] == pytest.approx(float(added), rel=1e-4)


@pytest.mark.parametrize("setting", [{"sinks": 2}, {"points": "earlier"}])
def test_block_errors_refuse_what_their_blocks_do_not_know(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name} (are|is) "):
        block_errors(*one_head(130), MuSe(clusters=4, leaf=32, **setting))


def test_block_errors_vanish_where_blocks_are_exact():
    q, k, v = one_head(256)
    for level in block_errors(q, k, v, MuSe(clusters=4, near=4, leaf=32)):
        assert level.error.max() < 1e-10


def test_blocks_beyond_the_end_are_told_by_nan():
    levels = block_errors(*one_head(130), MuSe(clusters=4, leaf=16))
    assert [level.size for level in levels] == [9, 18, 36, 72]
    assert np.isnan(levels[0].mass[-1])
    assert levels[0].error[-1] == 0
    assert not np.isnan(levels[-1].mass).any()
