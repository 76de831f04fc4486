"""The decode step in torch against the oracle, over caches that no clustering made."""

import pytest
import torch
from random_cache import make

from multipole_lab.decoding.step.reference import decode_step
from multipole_lab.testing import assert_close, oracle

OPTIONS = {
    "plain": {},
    "no replacement": {"replacement": False},
    "top_p": {"top_p": 0.5},
    "top_p reached at once": {"top_p": 0.01},
    "softcap": {"softcap": 5.0},
    "another frame": {"lookup": True},
    "first order": {"spread": False},
    "no budget": {"budget": 0},
    "all opened": {"budget": 10_000, "lookups": 10_000},
    "rooms": {"rooms": [0, 30, 7, 20]},
    "padded": {"padded": True},
}


@pytest.mark.parametrize("sizes", [(), (16,), (40, 6)], ids=["no level", "one level", "two levels"])
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_the_step_is_what_the_oracle_says(option, sizes):
    settings = {"scale": 0.25, "budget": 30, "lookups": 20} | OPTIONS[option]
    made = {name: settings.pop(name) for name in ("spread", "padded") if name in settings}
    q, state = make(2, 6, 2, 100, 32, 16, sizes, **made)(torch.float64)
    if "rooms" in settings:  # made here: where the cache lies is not known when this file is read
        settings["rooms"] = torch.tensor(settings["rooms"], dtype=torch.int32, device=q.device)
    if settings.pop("lookup", False):
        settings["lookup_q"] = q.flip(-1)
    got, wanted = (step(q, state, **settings) for step in (decode_step, oracle.decode_step))
    for name, ours, exact in zip(("out", "lse"), got, wanted, strict=True):
        assert_close(name, ours, exact)
