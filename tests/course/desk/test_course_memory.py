"""What a submission sends or is costs the grader little memory, whatever it says."""

import json
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
import torch

from multipole_lab.course.grading import bounds
from multipole_lab.course.sandbox import wire

# The grader's process: two threads, as with two workers, read messages and notebooks at the same time.
GRADER = """
import json, socket, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from multipole_lab.course.grading import batch, notebook, report
from multipole_lab.course.cells.ipython import as_python
from multipole_lab.course.cells.statements import statements
from multipole_lab.course.sandbox import wire

def message(fd):
    with socket.socket(fileno=fd) as sock:
        try:
            wire.receive(sock, time.monotonic() + 60)
        except wire.WireError as error:
            return str(error)
    return "read"

def file(path):
    try:
        cells, _ = notebook.read_submission(Path(path))
    except notebook.Unreadable as error:
        return str(error)
    for cell in cells:
        statements([("cell", as_python(cell.source))])
    return "read"

fds, paths = json.load(sys.stdin)
with ThreadPoolExecutor(2) as pool:
    said = [*pool.map(message, fds), *pool.map(file, paths)]
high = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([said, int(high) >> 10]))
"""


def message(structure, blob=b""):
    return struct.pack("<QQ", 8 + len(structure) + len(blob), len(structure)) + structure + blob


def lists(size):
    return b'{"list":[' + b"[]," * (size // 3) + b'{"plain":0}]}'


def many_tensors(count):
    header = json.dumps(
        {str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}
    )
    return struct.pack("<Q", len(header)) + header.encode()


MESSAGES = {
    "63 MB of empty lists": (message(lists(63 << 20)), "are allowed"),
    "16 MB of empty lists": (message(lists((16 << 20) - 99)), "in lists"),
    "4 MB of empty lists": (message(lists(4 << 20)), "in lists"),
    "16 MB of brackets": (message(b"[" * (15 << 20)), "in lists"),
    "brackets below every bound": (message(b"[" * 199_000), "malformed"),
    "lists in lists": (message(b'{"list":[' * 40 + b'{"plain":0}' + b"]}" * 40), "16 deep"),
    "4 MB of wide characters": (message(b'{"plain":"' + b"a" * 4_000_000 + b'\\ud83d\\ude00"}'), "read"),
    "200,000 tensors": (message(b'{"plain":0}', many_tensors(200_000)), "too many tensors"),
    "15 MB of numbers": (wire.pack([torch.ones(15 << 18)]), "read"),
    "no message": (b"\xff" * 100, "are allowed"),
    "a length that is a lie": (struct.pack("<QQ", 12, 1 << 60) + b"1234", "malformed"),
}
CODE = {"cell_type": "code", "metadata": {}}
NOTEBOOKS = {
    "10 MB of empty lists": (b'{"cells": [' + b"[]," * 3_400_000 + b"[]]}", "more numbers"),
    "lists below the bound": (b'{"cells": [' + b"[]," * 600_000 + b"[]]}", "read"),
    "brackets below every other bound": (b"[" * 500_000, "64 deep"),
    "10 MB of short texts": (b'{"cells": [' + b'"ab",' * 2_000_000 + b'""]}', "more texts"),
    "10 MB of objects": (b'{"cells": [' + b'{"a":1},' * 1_250_000 + b"{}]}", "more"),
    "wide characters": (
        b'{"cells": [{"source": "' + b"a" * 9_900_000 + "\U0001f600".encode() + b'"}]}',
        "read",
    ),
    "63 MB of lists": (b'{"cells": [' + b"[]," * (21 << 20) + b"[]]}", "66 MB"),
    "code without end": (
        json.dumps({"cells": [CODE | {"source": "1\n" * 2_000_000}]}).encode(),
        "characters",
    ),
    "code in one cell": (json.dumps({"cells": [CODE | {"source": "1\n" * 90_000}]}).encode(), "read"),
    "code below the bound": (json.dumps({"cells": [CODE | {"source": "1\n" * 49_999}] * 3}).encode(), "read"),
    "plots of half a million numbers": (b'{"cells": [' + b"0.123456789012345," * 500_000 + b"1]}", "read"),
}


def test_the_grader_stays_below_500_MB_whatever_comes(tmp_path):
    pairs, feeders = [socket.socketpair() for _ in MESSAGES], []

    def feed(sock, data):
        with sock, suppress(OSError):  # who refuses a message hangs up
            sock.sendall(data)

    for (_, theirs), (data, _) in zip(pairs, MESSAGES.values(), strict=True):
        feeders.append(threading.Thread(target=feed, args=(theirs, data)))
    paths = [tmp_path / f"{number}.ipynb" for number in range(len(NOTEBOOKS))]
    for path, (data, _) in zip(paths, NOTEBOOKS.values(), strict=True):
        path.write_bytes(data)
    fds = [ours.fileno() for ours, _ in pairs]
    command = [sys.executable, "-P", "-c", GRADER]
    grader = subprocess.Popen(command, stdin=-1, stdout=-1, pass_fds=fds, text=True)
    for ours, _ in pairs:
        ours.close()
    for feeder in feeders:
        feeder.start()
    out, _ = grader.communicate(json.dumps([fds, [str(path) for path in paths]]), timeout=120)
    for feeder in feeders:
        feeder.join()
    said, high = json.loads(out)
    expected = {name: reason for name, (_, reason) in (MESSAGES | NOTEBOOKS).items()}
    wrong = [(n, one) for (n, reason), one in zip(expected.items(), said, strict=True) if reason not in one]
    assert not wrong
    assert high < 500, f"{high} MB"


@pytest.mark.parametrize(
    "answer", [[0.5] * 99_000, list(range(50_000)), "x" * 1_000_000, torch.ones(4_000_000)]
)
def test_answers_of_a_usual_size_pass(answer):
    got = wire.unpack(wire.pack({"result": answer})[8:])["result"]
    assert torch.equal(got, answer) if isinstance(answer, torch.Tensor) else got == answer


@pytest.mark.parametrize("answer", [[0.5] * 101_000, [[]] * 70_000, "x" * (5 << 20), torch.ones(1 << 22, 2)])
def test_what_would_not_be_read_is_not_sent(answer):
    with pytest.raises(wire.WireError, match="more"):
        wire.pack({"result": answer})


def test_texts_are_spelled_out_where_they_cannot_be_shown():
    assert bounds.shown("Zoë\r\n\tπ 😀") == "Zoë\n\tπ 😀"
    assert bounds.shown("a\ud800\x00\x1b[2J\u202egpj") == "a\\ud800\\x00\\x1b[2J\\u202egpj"
    assert "60,000 characters" in bounds.shown("x" * 60_000)
    assert bounds.all_shown({"a\udcff": ["\x07", 1.5, None]}) == {"a\\udcff": ["\\x07", 1.5, None]}
