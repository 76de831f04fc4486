"""In which order clusters are opened: by mass per member in the cache, as the paper has it, by mass in ``Centroid``."""

import pytest
import torch

import multipole_lab as ml
from multipole_lab.attention import centroid
from multipole_lab.decoding.step.opening import open_clusters
from multipole_lab.measure import relative_squared_error
from multipole_lab.threads import one_thread


def order(opened_at):
    """The clusters in the order in which a growing budget opens them."""
    found = []
    for budget in range(1, 16):
        found += [j for j in opened_at(budget).flatten().nonzero().flatten().tolist() if j not in found]
    return found


def test_the_cache_opens_by_the_score_of_the_paper_and_centroid_by_mass():
    size, score = torch.tensor([[2, 8, 4, 1]]), torch.tensor([[0.9, 0.3, 0.5, 0.8]])  # exp(q.centroid)
    first = size.cumsum(-1) - size
    paper = score / (size * score).sum(-1, keepdim=True)  # equation 1: sizes are in the denominator only
    share = size * score / (size * score).sum(-1, keepdim=True)
    ours = order(lambda budget: open_clusters(share, first, size, budget)[2])
    assert ours == paper.argsort(descending=True).flatten().tolist() == [0, 3, 2, 1]
    offsets, places = torch.nn.functional.pad(first, (0, 1), value=15), torch.arange(15).unsqueeze(0)
    mass = share.log().unsqueeze(1)
    theirs = order(lambda budget: centroid.open_clusters(mass, size, places, offsets, budget)[2])
    assert share.argsort(descending=True).flatten().tolist() == [1, 2, 0, 3]
    assert theirs == [1, 2, 0, 3]


def test_under_the_usual_cap_both_orders_err_alike(monkeypatch):
    sample, by_mass = ml.load_sample("smollm2"), centroid.open_clusters

    def per_member(a, size, *more):
        return by_mass(a - size.clamp(min=1).to(a.dtype).log().unsqueeze(1), size, *more)

    def error(opening):
        monkeypatch.setattr(centroid, "open_clusters", opening)
        method, found = ml.Centroid(clusters=128, budget=256, sinks=4), 0.0
        for one in sample.layers:
            q, k, v = (x.float()[:, :, :2048] for x in (sample[one].q, sample[one].k, sample[one].v))
            q = q[:, :, -64:]
            exact = ml.Exact()(q, k, v, scale=sample.scale)
            found += float(relative_squared_error(method(q, k, v, scale=sample.scale), exact)) / 3
        return found

    with one_thread():
        assert error(per_member) == pytest.approx(error(by_mass), rel=0.25)
