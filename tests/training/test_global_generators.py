"""Nothing that trains looks at the global random generators, so checkpoints need not keep their states."""

import random

import numpy as np
import pytest
import torch
from every_method import METHODS


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_no_method_looks_at_the_global_generators(method, causal):
    q, k, v = (torch.randn(1, 2, 40, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    outs = []
    for seed in (1, 2):
        for draw_from in (random.seed, np.random.seed, torch.manual_seed):
            draw_from(seed)
        outs.append(method(q, k, v, causal=causal))
        next_draws = random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002  the global one
        for draw_from in (random.seed, np.random.seed, torch.manual_seed):
            draw_from(seed)
        assert next_draws == (random.random(), np.random.rand(), torch.rand(()).item())  # noqa: NPY002
    assert torch.equal(*outs)
