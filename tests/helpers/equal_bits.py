"""Equal bits asked of torch for a while, as a user asks for them."""

from contextlib import contextmanager

import torch


@contextmanager
def equal_bits(asked=True, warn_only=False):
    """torch's deterministic algorithms, on or off, and off afterwards; with ``warn_only`` where there is one."""
    torch.use_deterministic_algorithms(asked, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
