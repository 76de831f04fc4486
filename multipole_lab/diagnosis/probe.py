"""Whether a program works, by running it."""

from __future__ import annotations

import os
import subprocess

SECONDS = 90  # for a program that is started to see whether it works


def trial(command: list[str], **variables: str) -> str:
    """Run a program, and return nothing where it ends well, else the last line of what it says."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **variables},
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS} s"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
