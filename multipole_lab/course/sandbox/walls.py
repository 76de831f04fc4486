"""Walls around a student's process: namespaces, a root of its own, and limits, with the kernel's own means.

What a process in here can do: compute, and write a few megabytes into a folder that vanishes with it. It sees no
other process, no network, no home, no submissions, no masters, and of the library only what the question allows.

Linux namespaces need either root or unprivileged user namespaces (most desktops and servers; some containers and
Ubuntu 24.04 switch them off). Where they are not to be had nothing is started, unless `Limits.unsafe` says so: the
limits remain then, and `Walls.notes` says what does not hold. Only the standard library is used: this runs between
fork and the student's first line.

Bubblewrap and containers start a new program, which would import torch again for every submission, where this one is
forked from a process that has it; where namespaces are refused they do not start, and here the limits remain.
Bubblewrap also sets no limit on processor time, memory or processes, which tests/course hold hostile code to.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import struct
from dataclasses import dataclass, field
from pathlib import Path

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_SPACES = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS
_RDONLY, _NOSUID, _NODEV, _BIND, _REC, _PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SYS_MOUNT_SETATTR = 442  # one number on every architecture
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 4, 38, 36
_CAPABILITY_VERSION_3 = 0x20080522
_FIRST_UID = 61_000  # students' processes of a grader that runs as root; one user for each worker

_libc = ctypes.CDLL(None, use_errno=True)

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom")


@dataclass(frozen=True)
class Limits:
    """What one student process may use.

    Attributes
    ----------
    seconds : of processor time; the process is killed at the end of them.
    memory : bytes of address space on top of what Python and torch map themselves.
    file : bytes of one file.
    folder : bytes of all files together.
    processes : processes and threads.
    cells : seconds of processor time for the notebook's cells, before those of the question.
    unsafe : whether to go on without walls where the kernel refuses them.
    """

    seconds: int = 10
    memory: int = 2 << 30
    file: int = 16 << 20
    folder: int = 32 << 20
    processes: int = 8
    cells: int = 60
    unsafe: bool = False


class NoWalls(RuntimeError):
    """The kernel refuses namespaces, so that a submission could read and change what is the instructor's."""


@dataclass
class Walls:
    """Which walls stand around a process; filled by `enclose`."""

    private: bool = False
    notes: list[str] = field(default_factory=list)


def enclose(
    visible: list[str], hidden: list[str], folder: str, limits: Limits, slot: int
) -> tuple[Walls, bool]:
    """Put this process, which must have one thread, into namespaces and a root of its own.

    Only ``visible`` paths (and the system's libraries) exist in the new root, all read-only; ``hidden`` ones below
    them are empty. ``/submission`` is a fresh folder in memory and the working directory. Root itself makes the
    namespaces; where it may not (in a container) a user namespace comes with them, as for everybody else.

    Returns
    -------
    walls : what stands. Nothing does where the kernel refused and ``limits.unsafe`` is set: ``folder`` is the working
        directory then, and nothing is hidden.
    root : whether the process still has to give up the rights of root (see `confine`).

    Raises
    ------
    NoWalls : the kernel refused, and ``limits.unsafe`` is not set.
    """
    walls = Walls()
    root = os.geteuid() == 0
    try:
        owner = _FIRST_UID + slot if root else os.getuid()
        if not root or _libc.unshare(_SPACES) != 0:
            _own_users(owner, root)
        _new_root(visible, hidden, folder, limits.folder, owner)
        walls.private = True
    except OSError as error:
        if not limits.unsafe:
            raise NoWalls(f"this machine refuses namespaces ({error})") from error
        os.chdir(folder)
        walls.notes.append(
            f"no namespaces here ({error}): the network is not cut off and the instructor's files are not hidden"
        )
    return walls, root


def _own_users(owner: int, root: bool) -> None:
    """New namespaces, with one for users in which this process has all rights; it knows this user and ``owner``.

    Another process, which stays outside, writes the list of users: only there has root the right to name a second one.
    """
    pid, uid, gid = os.getpid(), os.getuid(), os.getgid()
    read, write = os.pipe()
    outside = os.fork()
    if outside == 0:
        try:
            os.close(write)
            if os.read(read, 1):
                more = f"\n{owner} {owner} 1" if root else ""
                Path(f"/proc/{pid}/setgroups").write_text("allow" if root else "deny")
                Path(f"/proc/{pid}/uid_map").write_text(f"{uid} {uid} 1{more}")
                Path(f"/proc/{pid}/gid_map").write_text(f"{gid} {gid} 1{more}")
                os._exit(0)
        finally:
            os._exit(1)
    refused = ctypes.get_errno() if _libc.unshare(_SPACES | NEWUSER) else 0
    if not refused:
        os.write(write, b"1")
    os.close(read)
    os.close(write)
    _, status = os.waitpid(outside, 0)
    if refused or status:
        raise OSError(refused or errno.EPERM, f"a user namespace: {os.strerror(refused or errno.EPERM)}")


def _become(slot: int) -> None:
    """Be the user of this slot; stay root where there are no other users (in some containers)."""
    with contextlib.suppress(OSError):
        os.setgroups([])
        os.setresgid(*[_FIRST_UID + slot] * 3)
        os.setresuid(*[_FIRST_UID + slot] * 3)


def confine(limits: Limits, root: bool, slot: int) -> None:
    """Set the limits and give up every right, for good. The last step before a student's code runs."""
    if root:
        _become(slot)
    _drop_capabilities()
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    mapped = _address_space()
    for kind, value in (
        (resource.RLIMIT_AS, mapped + limits.memory),
        (resource.RLIMIT_CPU, limits.cells + limits.seconds),
        (resource.RLIMIT_FSIZE, limits.file),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent has ended, so that none is left running."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide_memory() -> None:
    """Make /proc/<this process>/environ, mem and the like unreadable for others of the same user."""
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _new_root(visible: list[str], hidden: list[str], folder: str, space: int, owner: int) -> None:
    """A file system of the visible paths alone, read-only but for /submission; this process lives in it from now on."""
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", folder, "tmpfs", _NOSUID, f"size={space},mode=755")
    for path in map(Path, [*SYSTEM, *visible]):
        target = Path(folder + str(path))
        if target.is_symlink() or (target.is_dir() and any(target.iterdir())) or not path.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            target.symlink_to(os.readlink(path))
            path = path.resolve()
            target = Path(folder + str(path))
            if target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            target.mkdir()
        else:
            target.touch()
        _mount(str(path), str(target), None, _BIND | _REC)
    for path in hidden:
        target = Path(folder + str(Path(path).resolve()))
        if target.is_dir():
            _mount("tmpfs", str(target), "tmpfs", _NOSUID, "size=4k,mode=700")
    work = Path(folder, "submission")
    work.mkdir(exist_ok=True)
    attributes = struct.pack("=QQQQ", _RDONLY | _NOSUID, 0, 0, 0)
    _check(
        _libc.syscall(
            _SYS_MOUNT_SETATTR, _AT_FDCWD, folder.encode(), _AT_RECURSIVE, attributes, len(attributes)
        ),
        "mount_setattr",
    )
    _mount("tmpfs", str(work), "tmpfs", _NOSUID | _NODEV, f"size={space},mode=700,uid={owner},gid={owner}")
    os.chroot(folder)
    os.chdir("/submission")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = (None if x is None else x.encode() for x in (source, target, kind, options))
    source, target, kind, options = encoded
    _check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), options), f"mount {target.decode()}")


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, bytes(24)), "capset")


def _address_space() -> int:
    """Bytes this process has mapped; a guess where /proc is not to be seen."""
    return _MAPPED or 8 << 30


def remember_address_space() -> None:
    """Note how much this process has mapped, while /proc can still be read."""
    global _MAPPED
    _MAPPED = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


_MAPPED = 0


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
