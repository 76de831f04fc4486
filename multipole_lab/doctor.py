"""`multipole-lab doctor`: what can be done on this machine, what is missing, and the command that fixes it."""

import argparse
import dataclasses
import json
import textwrap

from multipole_lab import __version__, diagnosis
from multipole_lab.diagnosis import Finding

MARKS = {"ok": "ok", "note": "note", "warning": "WARN", "problem": "FAIL"}
PARTS = {"machine": "This machine", "feature": "What works on it"}
COLUMNS = 80


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Add the parser of `doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="check this machine",
        description="Say what works on this machine, what is missing for the rest, and the command that fixes it. "
        "Exit status 1 only where the library or its notebooks are installed and cannot run.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def run(args: argparse.Namespace) -> int:
    """Examine this machine, print the findings, and return 1 where something that is installed cannot run."""
    findings = diagnosis.examine()
    can_run = all(finding.level != "problem" for finding in findings)
    if args.json:
        # The old name of "fix" goes with the next version.
        rows = [dataclasses.asdict(finding) | {"mend": finding.fix} for finding in findings]
        print(json.dumps({"version": __version__, "can_run": can_run, "findings": rows}, indent=2))
    else:
        print(report(findings))
    return 0 if can_run else 1


def report(findings: list[Finding]) -> str:
    """Return the findings as text for a terminal of 80 columns, what is missing followed by its command, and a verdict.

    Only a command, and a word without spaces, may be longer than a line.
    """
    parts = [_table(title, [f for f in findings if f.part == part]) for part, title in PARTS.items()]
    here = [f"{f.name} {f.found}" for f in findings if f.part == "package" and f.level == "ok"]
    if here:
        words = ", ".join(one.replace(" ", "\0") for one in here)  # a name stays beside its version
        parts.append(f"Packages\n{_wrapped(words, '      ').replace(chr(0), ' ')}")
    return "\n\n".join([*filter(None, parts), _verdict(findings)])


def _table(title: str, findings: list[Finding]) -> str:
    if not findings:
        return ""
    width = max(len(finding.name) for finding in findings)
    blank, lines = " " * (8 + width), [title]
    for finding in findings:
        first = f"{MARKS[finding.level]:>4}  {finding.name:<{width}}  "
        lines.append(first + _wrapped(finding.found, blank).lstrip())
        if finding.fix:
            lines.append(f"{blank}-> {finding.fix}")
    return "\n".join(lines)


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text,
        COLUMNS,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _verdict(findings: list[Finding]) -> str:
    failed = dict.fromkeys(f.name for f in findings if f.level == "problem" and f.part != "package")
    missing = dict.fromkeys(
        f.name for f in findings if f.level in ("note", "warning") and f.part == "feature"
    )
    first = f"Cannot run yet: {', '.join(failed)}." if failed else "The lab can run here."
    rest = (
        f" Something is missing for: {', '.join(name for name in missing if name not in failed)}."
        if missing
        else ""
    )
    return textwrap.fill(first + rest, COLUMNS)
