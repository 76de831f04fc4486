"""A sample: queries, keys and values that a real model computed while reading a real text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from multipole_lab.files import check_path
from multipole_lab.folders import data_folder
from multipole_lab.models.samples.provenance import Provenance
from multipole_lab.models.samples.tensor_file import TensorFile, sha256, write_json
from multipole_lab.printing import count
from multipole_lab.suggesting import question, suggesting

FORMAT = "multipole_lab sample 1"


@dataclass(frozen=True)
class LayerSample:
    """What one attention layer received.

    Attributes
    ----------
    q : [1, Hq, N, D] float32. Queries after RoPE.
    k : [1, Hk, N, D] float32. Keys after RoPE. Query head h reads key head h // (Hq / Hk).
    v : [1, Hk, N, Dv] float32. Values.
    """

    q: Float[Tensor, "1 Hq N D"]
    k: Float[Tensor, "1 Hk N D"]
    v: Float[Tensor, "1 Hk N Dv"]

    def __repr__(self) -> str:
        return f"LayerSample(q {list(self.q.shape)}, k {list(self.k.shape)}, v {list(self.v.shape)})"


@dataclass(frozen=True, eq=False)
class Sample:
    """Captured layers of one model on one text; ``sample[15].q`` is a tensor, ``len(sample)`` the tokens.

    Tensors are stored in fp16 and come as float32. A layer is read from the file when it is first asked for
    and kept, so that opening a sample costs milliseconds.

    Attributes
    ----------
    layers : the captured layers, in ascending order.
    token_ids : [N] int64.
    tokens : the text of each token: of N tokens, in order.
    scale : the factor s on q.k before the softmax.
    rope : the model's RoPE parameters (theta, type ...), empty for a model without.
    provenance : where all this comes from: model, revision or wheel, text, versions, hashes, command.
    tensors : ``layer.3.q`` and so on in fp16, for a sample in memory.
    path : the safetensors file, for a sample on disk.
    """

    layers: list[int]
    token_ids: Int[Tensor, " N"] = field(repr=False)
    tokens: list[str] = field(repr=False)
    scale: float
    rope: dict
    provenance: dict = field(repr=False)
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    path: Path | None = None
    _read: dict[int, LayerSample] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "provenance", Provenance(self.provenance))

    def __repr__(self) -> str:
        model = self.provenance.get("model") or {}
        text = self.provenance.get("text_file")
        name = model.get("name") or model.get("class")
        few = len(self.layers) <= 12
        layers = (
            f"layers {self.layers}"
            if few
            else f"{len(self.layers)} layers from {self.layers[0]} to {self.layers[-1]}"
        )
        tokens = count(len(self), "token") + (f" of {text}" if text else "")
        return f"Sample({f'{name}, ' if name else ''}{tokens}, {layers})"

    def __getattr__(self, name: str) -> None:
        if name in ("q", "k", "v"):
            raise AttributeError(
                f"every layer of a sample has its own {name}: sample[{self.layers[0]}].{name}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __len__(self) -> int:
        return len(self.token_ids)

    __iter__ = None  # or Python would try sample[0], sample[1] ...

    def __getitem__(self, layer: int) -> LayerSample:
        """The queries, keys and values of one captured layer; a ValueError names the layers there are."""
        if layer not in self.layers:
            raise ValueError(f"layer {layer!r} was not captured; this sample has layers {self.layers}")
        if layer not in self._read:
            q, k, v = (self._tensor(name).float() for name in _names([layer]))
            self._read[layer] = LayerSample(q, k, v)
        return self._read[layer]

    def _tensor(self, name: str) -> Tensor:
        """One stored tensor [1, H, N, D], cut to this sample's length."""
        if self.path is None:
            return self.tensors[name][:, :, : len(self)]
        with safe_open(self.path, framework="pt") as file:
            return file.get_slice(name)[:, :, : len(self)]

    def crop(self, n: int) -> Sample:
        """The first n tokens: what the model would have computed had the text (read causally) ended there."""
        if isinstance(n, bool) or not isinstance(n, int):
            raise TypeError(f"n is {n!r}; an integer is needed")
        if not 1 <= n <= len(self):
            raise ValueError(f"n is {n}; this sample has {len(self)} tokens, so 1 to {len(self)} is allowed")
        read = {i: LayerSample(s.q[:, :, :n], s.k[:, :, :n], s.v[:, :, :n]) for i, s in self._read.items()}
        return replace(self, token_ids=self.token_ids[:n], tokens=self.tokens[:n], _read=read)

    def save(self, path: str | Path) -> Path:
        """Write ``<name>.safetensors`` and beside it ``<name>.json``; returns the path of the first."""
        path = safetensors_path(path)
        with TensorFile(path, tensors=3 * len(self.layers) + 1) as file:
            file.add("token_ids", self.token_ids)
            for name in _names(self.layers):
                file.add(name, self._tensor(name))
        write_record(path, self)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Sample:
        """Open a saved sample.

        Raises
        ------
        FileNotFoundError
            When the safetensors file or the JSON beside it is missing.
        ValueError
            When one of them is not a sample.
        """
        path = safetensors_path(path)
        record_path = path.with_suffix(".json")
        for needed in (path, record_path):
            if not needed.is_file():
                raise FileNotFoundError(f"{needed} is missing; a sample is a .safetensors and a .json file")
        try:
            record = json.loads(record_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{record_path} is not JSON: {error}") from None
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError(f"{record_path} is not the record of a sample (no format {FORMAT!r})")
        try:
            with safe_open(path, framework="pt") as file:
                missing = {"token_ids", *_names(record["layers"])} - set(file.keys())
                token_ids = None if missing else file.get_tensor("token_ids")
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from None
        if missing:
            raise ValueError(f"{path} is not what {record_path.name} describes: no {min(missing)}")
        tokens = record["tokens"]
        if len(token_ids) != len(tokens):
            raise ValueError(f"{path} has {len(token_ids)} tokens, {record_path.name} has {len(tokens)}")
        return cls(
            layers=record["layers"],
            token_ids=token_ids,
            tokens=tokens,
            scale=record["scale"],
            rope=record["rope"],
            provenance=record["provenance"],
            path=path,
        )


def write_record(path: Path, sample: Sample) -> None:
    """Write the JSON beside a safetensors file that is complete."""
    with safe_open(path, framework="pt") as file:
        shapes = {name: list(file.get_slice(name).get_shape()) for name in sorted(file.keys())}
    record = {
        "format": FORMAT,
        "file": path.name,
        "sha256": sha256(path),
        "layers": sample.layers,
        "scale": sample.scale,
        "rope": sample.rope,
        "shapes": shapes,
        "provenance": sample.provenance,
        "tokens": sample.tokens,
    }
    write_json(path.with_suffix(".json"), record)


@suggesting
def load_sample(name: str | Path) -> Sample:
    """Open a sample that comes with the lab, such as ``"smollm2"``, or any saved one by its path.

    Raises
    ------
    ValueError
        For a name that is neither; it lists the names there are.
    TypeError
        For what is no name and no path.
    """
    check_path("name", name)
    folder = data_folder()
    shipped = sorted(path.stem for path in folder.glob("*.safetensors"))
    if str(name) in shipped:
        return Sample.load(folder / f"{name}.safetensors")
    path = Path(name).expanduser()
    if path.suffix in {".safetensors", ".json"} or len(path.parts) > 1 or path.exists():
        return Sample.load(path)
    there = f"there are {', '.join(shipped) or 'none'}, or give a path"
    raise ValueError(f"no sample {str(name)!r}; {there}{question(name, shipped)}")


def check_sample(sample: object, name: str = "sample") -> None:
    """Refuse what is no sample with a TypeError that says how to have one."""
    if isinstance(sample, Sample):
        return
    how = "ml.load_sample and ml.capture give one"
    if isinstance(sample, LayerSample):
        how = "give the whole sample, and the layer's number as layers=[15]"
    elif isinstance(sample, (str, Path)):
        how = f"ml.load_sample({str(sample)!r}) opens one"
    raise TypeError(f"{name} is a {type(sample).__name__}; a Sample is needed: {how}")


def _names(layers: list[int]) -> list[str]:
    return [f"layer.{layer}.{part}" for layer in layers for part in "qkv"]


def safetensors_path(path: str | Path) -> Path:
    """The tensor file of a sample, whichever of its two files was named, with or without the ending."""
    path = Path(path).expanduser()
    if path.suffix == ".json":
        return path.with_suffix(".safetensors")
    return path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")
