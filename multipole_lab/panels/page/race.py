"""Two times as people feel them: bars that fill side by side, slowed down so that the eye can follow."""

from __future__ import annotations

import html
from collections.abc import Mapping

from multipole_lab.figures.common.theme import EXACT, TILTED, number

SECONDS = 3.0  # of the slower side


def race(ms: Mapping[str, float], tokens: int) -> str:
    """Bars of a panel, as HTML, that begin together and fill within times in proportion to what was measured.

    Parameters
    ----------
    ms : milliseconds of both sides by their names, exact attention first. tokens : the length that they are of.
    """
    slowest = max(ms.values())
    bars = "".join(
        f'<span>{html.escape(name)}</span><div class="ml-track"><div class="ml-bar" style="background: {colour}; '
        f'animation-duration: {SECONDS * time / slowest:.2f}s"></div></div><span>{number(time)} ms</span>'
        for (name, time), colour in zip(ms.items(), (EXACT, TILTED), strict=True)
    )
    slowed = number(1000 * SECONDS / slowest)
    words = f"{tokens:,} tokens, " + (
        f"slowed down {slowed} times" if slowest < 1000 * SECONDS else "speeded up"
    )
    return f'<div class="ml-race" role="img" aria-label="{_spoken(ms, tokens)}">{bars}<small>{words}</small></div>'


def _spoken(ms: Mapping[str, float], tokens: int) -> str:
    """The result for who does not see the bars."""
    return html.escape(f"at {tokens:,} tokens " + ", ".join(f"{k} {number(v)} ms" for k, v in ms.items()))
