"""The class as a whole: how many have how many points, question by question, and what went wrong most often."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict

from multipole_lab.course.grading.reports.pages import plain

BARS, MISTAKES = 10, 5


def class_summary(results: list[dict]) -> dict:
    """What the page of the class shows.

    Returns
    -------
    dict : ``students``, ``ungraded``, ``total`` and ``questions``; of each ``name``, ``title``, ``points``, ``mean``,
    ``median``, ``bars`` (``label``, ``count``, ``height`` in per cent), ``unread``, ``mistakes`` (``reason``,
    ``count``, ``where``).
    """
    by_question: dict[str, list[dict]] = defaultdict(list)
    for result in results:
        for item in result["items"]:
            by_question[item["question"]].append(item | {"problem": result["problem"]})
    regular = [[item for item in result["items"] if not item["bonus"]] for result in results]
    totals = [sum(item["earned"] or 0.0 for item in items) for items in regular]
    possible = max((sum(item["points"] for item in items) for items in regular), default=0.0)
    return {
        "students": len(results),
        "ungraded": sum(bool(result["problem"]) for result in results),
        "total": _one("All", "points without the bonus", totals, possible),
        "questions": [
            _one(
                name,
                items[0]["title"],
                [item["earned"] for item in items if item["earned"] is not None],
                items[0]["points"],
            )
            | {"unread": sum(item["earned"] is None for item in items), "mistakes": _mistakes(items)}
            for name, items in by_question.items()
        ],
    }


def _one(name: str, title: str, earned: list[float], points: float) -> dict:
    return {
        "name": name,
        "title": title,
        "points": plain(points),
        "mean": plain(round(statistics.fmean(earned), 2)) if earned else "-",
        "median": plain(round(statistics.median(earned), 2)) if earned else "-",
        "bars": _bars(earned, points),
    }


def _bars(earned: list[float], points: float) -> list[dict]:
    """A bar for each point where they are few, for each tenth where they are many; the last has all points."""
    steps = int(points) if float(points).is_integer() and 1 <= points <= BARS else BARS
    counts = [0] * (steps + 1)
    for one in earned:
        counts[max(0, min(steps, int(one / points * steps + 1e-9))) if points else steps] += 1
    highest = max(counts) or 1
    return [
        {"label": plain(round(i * points / steps, 1)), "count": n, "height": round(70 * n / highest)}
        for i, n in enumerate(counts)
    ]


def _mistakes(items: list[dict]) -> list[dict]:
    """The reasons that most students read, numbers aside; a student counts once for each."""
    counts: dict[str, int] = defaultdict(int)
    where: dict[str, dict[str, None]] = defaultdict(dict)
    for item in items:
        if item["problem"]:
            continue
        said = {(item["reason"], "")} if item["reason"] else {(t["reason"], t["name"]) for t in item["tests"]}
        for reason in {_without_numbers(reason) for reason, _ in said if reason}:
            counts[reason] += 1
        for reason, test in sorted(said):
            if reason and test:
                where[_without_numbers(reason)][test] = None
    ranked = sorted(counts, key=lambda reason: (-counts[reason], reason))[:MISTAKES]
    return [{"reason": r, "count": counts[r], "where": ", ".join([*where[r]][:4])} for r in ranked]


def _without_numbers(reason: str) -> str:
    """Two students with the same mistake are off by different numbers: 12 of 40 places, and 7 of 40."""
    return re.sub(r"(?<![\w.])-?\d+(\.\d+)?(e[+-]?\d+)?(?![\w])", "…", reason)
