"""What is said of a live panel and is not so on a page that computes nothing."""

from __future__ import annotations

import re

# Patterns of what pictures, panels' modules and the tour say, and what a page says instead; a line may end at a space.
OTHERWISE = {
    # of the tour
    r"Run the cells from top to bottom:.*?brought you to it\.": "Every slider can be moved with the mouse, or with the "
    "arrow keys after the Tab key has brought you to it. Nothing is computed while you read: the pictures were made "
    "when this page was built. Some controls are missing therefore, and others have fewer steps; some pictures show a "
    "shorter text.",
    r" It runs on a CPU, without a network; the cells take less than a minute on two cores\.": "",
    r",(?: or)? click in a square(?:, or drag the ring around it)?": "",
    r"Click on a dot to see another head\. Then read": "Read",
    r"\s*Every panel works like this one\..*?the panel shows that\.": "",
    r" \(under \*\*More\*\*\)|, under \*\*More\*\*,": "",
    r"\]\((\d\d_\w+)\.ipynb\)": r"](../notebooks/\1.html)",
    r"\]\(\.\./docs/([\w/]+)\.md(#[\w-]+)?\)": r"](../\1.html\2)",
    # of pictures
    r"just now": "beforehand",
    r" Click on a dot to see another head\.": "",
    # of panels
    r"timed here and now": "timed when this page was built",
    r"at this machine's prices": "at the prices of the machine that built this page",
}
_PATTERNS = {re.compile(live.replace(" ", "(?: |<br>)"), re.DOTALL): here for live, here in OTHERWISE.items()}


def of_a_page(text: str) -> str:
    """A text, as it is so on a page that computes nothing."""
    for live, here in _PATTERNS.items():
        text = live.sub(here, text)
    return text
