"""Archives that are the same bytes each time, and the library as a wheel to put into them."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata as metadata
import importlib.util
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from multipole_lab import files

_BEFORE_ALL_TIME = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip archive can name
_SUFFIXES = {".py", ".typed", ".json", ".md", ".safetensors", ".txt"}  # as package-data in pyproject.toml


def write(path: Path, entries: Mapping[str, bytes | str], executable: frozenset[str] = frozenset()) -> Path:
    """Write a zip archive whole or not at all; the same entries give the same bytes, on any machine and day.

    Parameters
    ----------
    path : the archive; its folder is made.
    entries : {name inside: content}.
    executable : the names that are programs.

    Raises
    ------
    ValueError : a name that leads out of the folder into which the archive is unpacked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as partial:
        partial.write_bytes(packed(entries, executable))
    return path


def packed(entries: Mapping[str, bytes | str], executable: frozenset[str] = frozenset()) -> bytes:
    """The bytes that `write` writes."""
    for name in entries:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name or str(inside) != name:
            raise ValueError(f"an archive may not hold {name!r}; a plain path below its root is needed")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(entries):
            content = entries[name]
            info = zipfile.ZipInfo(name, _BEFORE_ALL_TIME)
            info.create_system = 3  # Unix, wherever this runs: the mode below counts
            info.external_attr = (0o100755 if name in executable else 0o100644) << 16
            dense = name.endswith((".whl", ".safetensors"))
            info.compress_type = zipfile.ZIP_STORED if dense else zipfile.ZIP_DEFLATED
            archive.writestr(info, content.encode() if isinstance(content, str) else content)
    return buffer.getvalue()


def wheel() -> tuple[str, bytes]:
    """The library as it runs here, from a checkout or installed, as a wheel: its file name and its bytes.

    It holds no masters: those are not part of the library. Recorded benchmarks stay out too.
    """
    distribution = metadata.distribution("multipole_lab")
    info = f"multipole_lab-{distribution.version}.dist-info"
    entries: dict[str, bytes] = dict(_library())
    entries[f"{info}/METADATA"] = str(distribution.read_text("METADATA")).encode()
    entries[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: multipole_lab\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    scripts = [f"{e.name} = {e.value}" for e in distribution.entry_points if e.group == "console_scripts"]
    entries[f"{info}/entry_points.txt"] = ("[console_scripts]\n" + "\n".join(scripts) + "\n").encode()
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in sorted(entries.items())]
    entries[f"{info}/RECORD"] = ("\n".join([*record, f"{info}/RECORD,,"]) + "\n").encode()
    return f"multipole_lab-{distribution.version}-py3-none-any.whl", packed(entries)


def _library() -> Iterator[tuple[str, bytes]]:
    """Every file of the library, under the name it is imported by; a checkout keeps two folders elsewhere."""
    for name in ("multipole_lab", "multipole_lab.kernels", "multipole_lab.data"):
        spec = importlib.util.find_spec(name)
        root = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            elsewhere = name == "multipole_lab" and inside.parts[0] in ("kernels", "data")
            if (
                path.is_file()
                and path.suffix in _SUFFIXES
                and not elsewhere
                and "benchmarks" not in inside.parts
            ):
                yield f"{name.replace('.', '/')}/{inside.as_posix()}", path.read_bytes()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
