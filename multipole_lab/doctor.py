"""`multipole-lab doctor`: what this machine has, what it lacks, and the command that mends each lack."""

import argparse
import dataclasses
import json

from multipole_lab import __version__, diagnosis

MARKS = {"ok": "ok", "note": "note", "warning": "WARN", "problem": "FAIL"}


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Add the parser of `doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="check this machine",
        description="Check what the lab needs. Exit status 1 only where it cannot run.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def run(args: argparse.Namespace) -> int:
    """Examine this machine, print the findings, and return 1 where the lab cannot run."""
    findings = diagnosis.examine()
    can_run = all(finding.level != "problem" for finding in findings)
    if args.json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"version": __version__, "can_run": can_run, "findings": rows}, indent=2))
    else:
        print(report(findings))
    return 0 if can_run else 1


def report(findings: list[diagnosis.Finding]) -> str:
    """Return the findings as a table for a terminal, each lack followed by its command, and a verdict."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.level]:>4}  {finding.name:<{width}}  {finding.found}".rstrip())
        if finding.mend:
            lines.append(f"{'':>4}  {'':<{width}}  -> {finding.mend}")
    failed = [finding.name for finding in findings if finding.level == "problem"]
    verdict = f"The lab cannot run yet: {', '.join(failed)}." if failed else "The lab can run here."
    return "\n".join([*lines, "", verdict])
