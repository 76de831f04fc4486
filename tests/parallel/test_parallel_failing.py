"""A rank that runs out of memory or is killed ends all of them, with its reason, whatever they do meanwhile.

One that falls silent is in test_parallel: who waits for it raises.
"""

import time

import parallel_worker as worker
import pytest
from torch.multiprocessing.spawn import ProcessException

from multipole_lab.parallel import launch

SAID = {
    "memory": "rank 1: OutOfMemoryError: tried to allocate 80 GiB",
    "killed": "SIGKILL",
}


@pytest.mark.parametrize("way", SAID)
def test_one_rank_ends_all_within_the_limit_with_its_reason(way):
    """Two minutes is what the others would take: rank 0 computes, rank 2 waits in an exchange."""
    began = time.monotonic()
    with pytest.raises(ProcessException) as caught:
        launch(worker.fail, 3, way, limit=8.0)
    assert time.monotonic() - began < 110  # of which three processes take most to start
    said = " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert SAID[way] in said
