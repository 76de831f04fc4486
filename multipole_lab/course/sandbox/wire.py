"""Messages between the grader and a student's process: a length, JSON for the structure, safetensors for tensors.

Nothing that is read here can run code. Both ends refuse what would take much memory to read: messages above
``LARGEST`` bytes, structures above ``STRUCTURE`` bytes or ``NODES`` values, lists nested more than ``DEEPEST`` deep.
The hidden tests of the five assignments send 10 MB at most, and get 130 kB.
"""

from __future__ import annotations

import json
import socket
import struct
import time

import numpy as np
import torch
from safetensors.torch import load, save

LARGEST = 16 << 20
STRUCTURE = 4 << 20  # bytes of JSON, and of the tensors' names and shapes
NODES = 200_000  # brackets and commas: an empty list is three bytes on the wire and 64 in memory
DEEPEST = 16
_PLAIN = (bool, int, float, str, type(None))


class WireError(Exception):
    """A message that is too large, or nothing that may be sent."""


def pack(message: object) -> bytes:
    """Bytes of plain values, lists, tuples, dictionaries with string keys, and tensors.

    Raises
    ------
    WireError : another type, or more than the other end would read.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(_down(message, tensors, 0)).encode()
    _check_structure(structure)
    # Before anything is copied: to refuse a large answer must not cost the student's processor time.
    _check_size(len(structure) + sum(tensor.nbytes for tensor in tensors.values()))
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    blob = save(copies) if copies else b""
    _check_size(len(structure) + len(blob))  # with the names and shapes of the tensors
    return struct.pack("<QQ", 8 + len(structure) + len(blob), len(structure)) + structure + blob


def unpack(body: bytes | bytearray) -> object:
    """The inverse of `pack`, without the leading length. Any malformed message is a WireError."""
    try:
        (length,) = struct.unpack_from("<Q", body)
        structure, blob = bytes(body[8 : 8 + length]), bytes(body[8 + length :])
        _check_structure(structure)
        if blob and struct.unpack_from("<Q", blob)[0] > STRUCTURE:
            raise WireError("too many tensors")
        return _up(json.loads(structure), load(blob) if blob else {}, 0)
    except WireError:
        raise
    except Exception as error:  # whatever a hostile message causes
        raise WireError(f"a malformed message ({type(error).__name__})") from None


def send(sock: socket.socket, message: object) -> None:
    """Send one message."""
    sock.sendall(pack(message))


def receive(sock: socket.socket, deadline: float | None = None) -> object:
    """The next message.

    Raises
    ------
    EOFError : the other end is gone.
    TimeoutError : ``deadline`` (of ``time.monotonic``) has passed.
    WireError : no message, or one above LARGEST.
    """
    (length,) = struct.unpack("<Q", _exactly(sock, 8, deadline))
    if not 8 <= length <= LARGEST + 8:
        raise WireError(f"a message of {length} bytes; {LARGEST} are allowed")
    return unpack(_exactly(sock, length, deadline))


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise WireError(f"more than {LARGEST >> 20} MB")


def _check_structure(structure: bytes) -> None:
    if len(structure) > STRUCTURE or sum(map(structure.count, (b"[", b"{", b","))) > NODES:
        raise WireError("more numbers or texts in lists than can be read (a tensor may have millions)")


def _exactly(sock: socket.socket, count: int, deadline: float | None) -> bytearray:
    data = bytearray()  # one buffer, however small the pieces are that a sender makes of it
    while len(data) < count:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
        part = sock.recv(min(count - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return data


def _down(value: object, tensors: dict[str, torch.Tensor], depth: int) -> object:
    _check_depth(depth)
    if isinstance(value, np.ndarray | np.generic):
        value = torch.as_tensor(value)
    if isinstance(value, torch.Tensor):
        if value.is_complex() or value.layout != torch.strided:
            raise WireError(f"a {value.dtype} {value.layout} tensor")
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, _PLAIN):
        return {"plain": value}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_down(item, tensors, depth + 1) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _down(item, tensors, depth + 1) for key, item in value.items()}}
    raise WireError(f"a {type(value).__name__}")


def _check_depth(depth: int) -> None:
    if depth > DEEPEST:
        raise WireError(f"lists nested more than {DEEPEST} deep")


def _up(node: dict, tensors: dict[str, torch.Tensor], depth: int) -> object:
    _check_depth(depth)
    ((kind, inner),) = node.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "plain" and isinstance(inner, _PLAIN):
        return inner
    if kind in ("list", "tuple"):
        items = [_up(item, tensors, depth + 1) for item in inner]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {key: _up(item, tensors, depth + 1) for key, item in inner.items()}
    raise WireError(f"a node of kind {kind!r}")
