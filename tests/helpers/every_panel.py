"""Every panel there is, how it is made, and what its picture says."""

import inspect

from multipole_lab import panels

ONE_FIGURE = [
    name for name in panels.__all__ if name != "lab"
]  # the desk is several, and is tested by itself


def takes_sample(name: str) -> bool:
    """Whether a panel is one of a sample's queries and keys."""
    return "sample" in inspect.signature(getattr(panels, name)).parameters


def titled(panel) -> str:
    """The title of a panel's figure in one line."""
    return " ".join(panel.figure().layout.title.text.replace("<br>", " ").split())
