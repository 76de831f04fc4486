"""Write a safetensors file one tensor at a time, so that a capture need not fit in memory twice."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from multipole_lab import files

_NAMES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.int64: "I64",
}
_BYTES_PER_ENTRY = 192  # a header entry: name, dtype, four dimensions and two offsets, with some to spare


class TensorFile:
    """A safetensors file that grows as tensors come and appears under its name only when it is complete.

    The format puts the header first although the offsets are known last, so space for it is left at the front
    and filled with spaces, which JSON ignores.

    Parameters
    ----------
    path : where the file will stand; its folder is made.
    tensors : the largest number of tensors that will be added.
    """

    def __init__(self, path: str | Path, tensors: int) -> None:
        self.path = Path(path)
        self.reserved = 128 + _BYTES_PER_ENTRY * tensors  # a multiple of 8, which keeps the tensors aligned
        self.header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self.written = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Append one tensor (fp16, bf16, fp32 or int64); it may be freed afterwards."""
        data = tensor.detach().contiguous().cpu()
        size = data.numel() * data.element_size()
        self.header[name] = {
            "dtype": _NAMES[data.dtype],
            "shape": list(data.shape),
            "data_offsets": [self.written, self.written + size],
        }
        self.file.write(data.view(torch.uint8).numpy().data)
        self.written += size

    def __enter__(self) -> TensorFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self.file = stack.enter_context(open(stack.enter_context(files.replacing(self.path)), "wb"))
            self.file.write(b" " * (8 + self.reserved))
            stack.push(self._finish)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)

    def _finish(self, kind: type | None, *_: object) -> None:
        """Fill in the header, unless something was raised."""
        if kind is None:
            header = json.dumps(self.header, separators=(",", ":")).encode()
            if len(header) > self.reserved:
                raise RuntimeError(f"the header has {len(header)} bytes; {self.reserved} were reserved")
            self.file.seek(0)
            self.file.write(self.reserved.to_bytes(8, "little") + header.ljust(self.reserved))


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, content: dict) -> None:
    """Write JSON beside the name and move it there, so that a reader never sees half of it."""
    files.write(path, _render(content) + "\n")


def _render(value: object, depth: int = 1) -> str:
    """JSON with a line for each entry of a dictionary and none for those of a list, such as 4,096 tokens."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    lines = (f"{' ' * depth}{json.dumps(key)}: {_render(inner, depth + 1)}" for key, inner in value.items())
    return "{\n" + ",\n".join(lines) + "\n" + " " * (depth - 1) + "}"
