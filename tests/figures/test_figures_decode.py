"""The trace of decoding: rows, bands and lines by their data, and the records behind them against plain attention."""

import numpy as np
import pytest
import torch

from multipole_lab import figures
from multipole_lab.decoding.settings import Settings
from multipole_lab.lessons.decode_trace import decode_trace

TOKENS = [f" w{i}" for i in range(100)]


def draw(**more):
    arguments = {
        "positions": np.array([97, 98, 99]),
        "chosen": [np.array([5, 7]), np.array([], dtype=int), np.array([9])],
        "weights": [np.array([0.1, 0.3]), np.array([]), np.array([0.2])],
        "sinks": np.array([2, 2, 2]),
        "tails": np.array([90, 90, 95]),
        "mass": np.array([0.9, 0.5, 0.8]),
        "error": np.array([0.01, 0.2, 0.03]),
        "tokens": TOKENS,
    }
    return figures.decode(**(arguments | more))


def words(fig):
    return fig.layout.title.text.replace("<br>", " ")


def test_a_row_for_each_step_with_its_bands_and_ticks():
    recent, sinks, ticks, mass, error = draw().data
    assert list(recent.base) == [90, 90, 95]
    assert list(recent.x) == [8, 9, 5]  # up to the query's own key
    assert list(sinks.x) == [2, 2, 2]
    assert list(zip(ticks.x, ticks.y, strict=True)) == [(5, 1), (7, 1), (9, 3)]
    assert ticks.text[1] == "␣w7"
    assert list(mass.y) == [0.9, 0.5, 0.8]
    assert list(error.y) == [0.01, 0.2, 0.03]


def test_the_title_tells_about_one_step_heaviest_token_first():
    text = words(draw(step=0))
    assert "Step 1 reads 12 of 98 keys exactly" in text
    assert "hold 90.0% of its attention" in text
    assert "“␣w7” “␣w5”" in text
    assert "No cluster was opened" in words(draw(step=1))


def test_the_frame_moves_with_the_step():
    assert draw(step=2).layout.shapes[0].y0 == 2.5
    with pytest.raises(ValueError, match="steps 0 to 2, got 3"):
        draw(step=3)


def inputs(tokens=200, group=2):
    random = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, tokens, 16, generator=random) for heads in (group, 1, 1)]


SMALL = {"interval": 16, "block": 64, "sinks": 3, "recent": 12, "budget": 40, "fraction": 1 / 8}


@pytest.mark.parametrize("levels", [1, 2])
def test_records_agree_with_plain_attention(levels):
    q, k, v = inputs()
    records = decode_trace(q, k, v, Settings(levels=levels, replacement=False, **SMALL), steps=20)
    assert [record.position for record in records] == list(range(180, 200))
    assert any(len(record.chosen) for record in records)
    for record in records:
        assert len(record.chosen) <= 40
        assert (record.opened == 0) == (len(record.chosen) == 0)
        assert record.sinks == 3
        assert ((record.chosen >= 3) & (record.chosen < record.tail)).all()
        assert record.tail <= record.position - 11
        # without replacement the output is attention over the exact keys, which pins both mass and error
        t = record.position
        logits = q[0, :, t] @ k[0, 0, : t + 1].T / 4
        read = np.r_[:3, record.chosen, record.tail : t + 1]
        weights = logits.softmax(-1)
        assert record.mass == pytest.approx(weights[:, read].sum(-1).mean().item(), rel=1e-4)
        exact, partial = weights @ v[0, 0, : t + 1], logits[:, read].softmax(-1) @ v[0, 0, read]
        error = ((partial - exact).square().sum(-1) / exact.square().sum(-1)).mean().item()
        assert record.error == pytest.approx(error, rel=1e-3)


def test_before_anything_is_clustered_all_is_exact():
    (record,) = decode_trace(*inputs(20), Settings(**SMALL), steps=1)
    assert record.tail == 0
    assert len(record.chosen) == record.clusters == 0
    assert record.mass == pytest.approx(1)
    assert record.error < 1e-10


@pytest.mark.parametrize("steps", [0, 20])
def test_steps_that_do_not_exist_are_refused(steps):
    with pytest.raises(ValueError, match="1 to 19 is allowed for 20 tokens"):
        decode_trace(*inputs(20), Settings(), steps=steps)
