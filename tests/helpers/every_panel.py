"""Every panel there is, and how it is made."""

import inspect

from multipole_lab import panels


def takes_sample(name: str) -> bool:
    """Whether a panel is one of a sample's queries and keys."""
    return "sample" in inspect.signature(getattr(panels, name)).parameters
