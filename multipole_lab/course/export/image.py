"""The script that fills a grading image: Python, torch for the CPU, the library, and what a system needs besides."""

from __future__ import annotations

_SETUP = """\
#!/usr/bin/env bash
# Run once, as root, when the image is built; it needs the network.
set -euo pipefail
cd "$(dirname "$(readlink -f "${{BASH_SOURCE[0]}}")")"
chmod 700 .  # the master is in here; students' code runs as another user

fits='import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'
python=""
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c "$fits" 2>/dev/null; then python="$candidate"; break; fi
done
if [ -z "$python" ]; then  # Ubuntu 22.04 has Python 3.10
    apt-get update
    apt-get install -y --no-install-recommends python3-venv
    python3 -m venv /opt/multipole-lab-uv
    /opt/multipole-lab-uv/bin/pip install uv
    export UV_PYTHON_INSTALL_DIR=/opt/multipole-lab-python
    /opt/multipole-lab-uv/bin/uv python install 3.12
    python="$(/opt/multipole-lab-uv/bin/uv python find 3.12)"
fi
"$python" -m venv ../venv
wheel="$(mktemp -d)/{wheel}"
cp requirements.whl "$wheel"
# torch's own index has builds without CUDA, a tenth of the size; where it does not answer, PyPI's will do.
../venv/bin/pip install --retries 1 --index-url https://download.pytorch.org/whl/cpu torch || true
../venv/bin/pip install "$wheel"{packages}
../venv/bin/python -P -c "import {module}"
"""

_RUN = """\
#!/usr/bin/env bash
# Run for each submission; what it prints is for instructors only.
set -euo pipefail
cd "$(dirname "$(readlink -f "${{BASH_SOURCE[0]}}")")"
exec venv/bin/python -P {command}
"""

PROGRAMS = frozenset({"setup.sh", "run_autograder"})


def scripts(
    wheel: tuple[str, bytes], module: str, command: str, packages: str = ""
) -> dict[str, str | bytes]:
    """``setup.sh``, ``run_autograder`` and the library, as entries of an archive.

    The wheel is called ``requirements.whl`` there: otter-grader copies files of that name, and no others, into an
    image before it runs ``setup.sh``.

    Parameters
    ----------
    wheel : the library's file name and bytes.
    module : imported at the end of the set-up, so that an image without it is not built.
    command : what Python runs for a submission, in the folder above the archive's.
    packages : what pip installs besides.
    """
    more = f' "{packages}"' if packages else ""
    return {
        "setup.sh": _SETUP.format(wheel=wheel[0], packages=more, module=module),
        "run_autograder": _RUN.format(command=command),
        "requirements.whl": wheel[1],
    }
