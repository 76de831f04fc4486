"""What is installed and started from elsewhere is named exactly: packages by hashes, actions by commits."""

import importlib.metadata as metadata
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_hashed_pins_are_the_pins_with_what_torch_brings_for_cuda():
    hashed = read("constraints-hashed.txt")
    entries = re.findall(
        r"^([\w.-]+)==([^ ;\\\s]+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", hashed, re.M
    )
    assert len(entries) == len(re.findall(r"^[\w.-]+==", hashed, re.M)), "a pin without a hash"
    ours = {(canonicalize_name(name), version) for name, version, _ in entries}
    pins = {tuple(line.split("==")) for line in read("constraints.txt").splitlines() if "==" in line}
    pins = {(canonicalize_name(name), version) for name, version in pins if not name.startswith("#")}
    assert {pair for pair in ours if not pair[0].startswith(("nvidia-", "cuda-"))} == pins


def jobs():
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items():
            yield pytest.param(job, id=f"{path.stem}-{name}")


@pytest.mark.parametrize("job", list(jobs()))
def test_every_job_has_few_rights_an_end_and_actions_pinned_by_commit(job):
    rights = job["permissions"]
    assert rights in ({"contents": "read"}, {"id-token": "write"})
    assert job["timeout-minutes"] <= 90
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"])
            if step["uses"].startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
        else:
            assert "${{" not in step["run"], "what an event says must not become a command"


def test_every_pinned_action_says_its_version_and_has_one():
    pinned = re.findall(r"uses: (\S+)@(\w{40}) # (v[\d.]+)$", "".join(map(Path.read_text, WORKFLOWS)), re.M)
    assert len(pinned) == sum(path.read_text().count("uses: ") for path in WORKFLOWS) > 8
    assert len({action for action, _, _ in pinned}) == len(set(pinned))


def test_workflows_run_only_what_is_here():
    text = "".join(map(Path.read_text, WORKFLOWS))
    for command in re.findall(r"- run: (\.ci/\w+)", text):
        assert (ROOT / command).stat().st_mode & stat.S_IXUSR, command
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.M))
    assert set(re.findall(r"- run: make (\w+)", text)) <= targets
    classified = re.findall(r"Python :: (3\.\d+)", read("pyproject.toml"))
    nightly = yaml.safe_load(read(".github/workflows/nightly.yml"))
    assert nightly["jobs"]["pins"]["strategy"]["matrix"]["python"] == classified


def test_versions_refuses_an_end_that_there_is_not():
    done = subprocess.run([ROOT / ".ci/versions", "middle"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "oldest|newest" in done.stderr


@pytest.mark.parametrize(
    ("end", "words"), [("oldest", r"torch==\d+\.\d+\.\*"), ("newest", r"torch>=\d+\.\d+")]
)
def test_versions_reads_the_ends_from_the_project(end, words):
    script = read(".ci/versions").split("<<'PY'\n")[1].split("\nPY\n")[0]
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, end],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert re.fullmatch(words, lines[0])
    assert {re.split(r"[=>]=", line)[0] for line in lines} >= {"torch", "transformers"}


def test_every_installed_package_has_a_licence_on_the_page():
    page = read("docs/licences.md")
    for line in metadata.requires("multipole_lab"):
        if 'extra == "docs"' not in line:
            name = re.match(r"[\w.-]+", line)[0].lower().replace("_", "-")
            assert re.search(rf"[ |]{re.escape(name)}[, ]", page), name
