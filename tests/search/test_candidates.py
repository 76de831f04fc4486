"""The candidates of the front: settings that fit the length, and measured as asked."""

import pytest
import torch

from multipole_lab.measure.inputs import Load
from multipole_lab.models.samples.sample import LayerSample
from multipole_lab.search.candidates import FAMILIES, candidates, measure


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [17, 300])
def test_every_candidate_runs_at_its_length(length, causal):
    random = torch.Generator().manual_seed(0)
    layer = LayerSample(*(torch.randn(1, h, length, 8, generator=random) for h in (2, 1, 1)))
    chosen = candidates(length, causal)
    assert {one.family for one in chosen} <= set(FAMILIES)
    costs = [
        cost for cost in measure(layer, length, chosen, Load(causal=causal), turns=1) if cost is not None
    ]
    assert [cost.index for cost in costs] == list(range(len(chosen)))
    assert all(cost.ms > 0 and cost.exact_ms > 0 and 0 <= cost.rse < 50 for cost in costs)


def test_settings_are_told_apart_by_their_words():
    words = [(one.family, one.setting) for one in candidates(4096)]
    assert len(set(words)) == len(words)
    assert {family for family, _ in words} == set(FAMILIES)
