"""A tiny random model of any of transformers' families, and something for it to read."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
)

LENGTH, VOCABULARY, PADDING = 28, 64, 5
IMAGE = 4  # tokens of an image in a text
LARGEST = 3_000_000  # parameters of a model that is still tiny
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
# Small values of what families call their sizes; each configuration takes those that it knows.
_SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size"), 32),
    **dict.fromkeys(
        ("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner"), 48
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "multi_query_group_num"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 16),
    **dict.fromkeys(("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_target_positions"), 128),
    **dict.fromkeys(("image_size", "num_mel_bins"), 16),
    "vocab_size": VOCABULARY,
    "patch_size": 4,
    "max_source_positions": LENGTH,
    "local_attention": 16,
    **_TOKENS,
}
_SLIDING = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
# What the sizes above do not say: windows, so that both kinds of layers are seen.
_OWN: dict[str, dict] = {
    "mistral": {"sliding_window": 64},
    "phi3": {"sliding_window": 64},
    **dict.fromkeys(("gemma2", "gemma3_text", "gpt_oss"), _SLIDING),
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 12},
    # Its images' tokens see each other both ways: a mask that depends on the query.
    "gemma3": {
        "text_config": {"vocab_size": VOCABULARY, **_SLIDING},
        "vision_config": {"model_type": "siglip_vision_model"},
        **{
            "mm_tokens_per_image": IMAGE,
            "image_token_index": 60,
            "boi_token_index": 61,
            "eoi_token_index": 62,
        },
    },
}


@dataclass(frozen=True)
class Part:
    """A model that a method can be put into.

    Attributes
    ----------
    label : its family, and its side where that has an encoder and a decoder.
    model : in evaluation mode. inputs : what its ``forward`` reads, two rows.
    kept : [2, N] bool, False for padding, or None where nothing is padded.
    """

    label: str
    model: PreTrainedModel
    inputs: dict[str, Tensor]
    kept: Tensor | None

    @property
    def decodes(self) -> bool:
        """Whether it writes token after token with a cache."""
        return "input_ids" in self.inputs and hasattr(self.model, "generate") and self.model.can_generate()

    def read(self, **more: object) -> Tensor:
        """Its first output, [rows, N, .], without the padding: [n, .]."""
        with torch.no_grad():
            out = self.model(**self.inputs, **more)[0]
        return out if self.kept is None else out[self.kept]


def tiny_parts(family: str) -> list[Part]:
    """A seeded random model of a family of transformers' list, or its encoder and its decoder.

    Raises
    ------
    ValueError : the sizes known here make no model of it, with the reason.
    """
    try:
        parts = _parts(family)
        for part in parts:
            out = part.read()
            if not out.isfinite().all() or not torch.equal(out, part.read()):
                raise ValueError(f"{part.label} computes no finite numbers, or others each time")
        return parts
    except Exception as error:  # whatever a model class says of sizes that are not its own
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _parts(family: str) -> list[Part]:
    kind = CONFIG_MAPPING[family]
    config = _small(kind, _OWN.get(family, {}))
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
    causal = causal and not config.is_encoder_decoder
    make = (MODEL_FOR_CAUSAL_LM_MAPPING if causal else MODEL_MAPPING)[kind]
    with torch.device("meta"):
        numbers = sum(weight.numel() for weight in make(copy.deepcopy(config)).parameters())
    if numbers > LARGEST:
        raise ValueError(f"of these sizes it still has {numbers:,} parameters")
    torch.manual_seed(0)
    model = make(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(4)  # so that attention is not uniform
    if not config.is_encoder_decoder:
        return [Part(family, model, *_inputs(model))]
    encoder, decoder = model.get_encoder(), model.get_decoder()
    first = Part(f"{family} encoder", encoder, *_inputs(encoder))
    with torch.no_grad():
        states = encoder(**first.inputs)[0]
    inputs, kept = _text()
    return [first, Part(f"{family} decoder", decoder, {**inputs, "encoder_hidden_states": states}, kept)]


def _small(kind: type[PreTrainedConfig], own: dict) -> PreTrainedConfig:
    """A configuration of small sizes, those of its parts too."""
    known = inspect.signature(kind.__init__).parameters
    values = {name: value for name, value in _SIZES.items() if name in known}
    if "kv_lora_rank" in known:
        values["num_key_value_heads"] = values["num_attention_heads"]
    for name, part in kind.sub_configs.items():
        given = own.get(name, {})
        if part is AutoConfig:
            if not given:
                raise ValueError(f"it has a part of any kind, {name}")
            part = CONFIG_MAPPING[given["model_type"]]
        values[name] = _small(part, given).to_dict()
    return kind(**{**values, **{name: value for name, value in own.items() if name not in kind.sub_configs}})


def _inputs(model: PreTrainedModel) -> tuple[dict[str, Tensor], Tensor | None]:
    name, config = model.main_input_name, model.config
    generator = torch.Generator().manual_seed(0)
    if name == "input_ids" and hasattr(config, "mm_tokens_per_image"):
        text, kept = _text()
        text["input_ids"].clamp_(max=59)[:, 10 : 10 + IMAGE] = config.image_token_index
        text["token_type_ids"] = (text["input_ids"] == config.image_token_index).long()
        size = config.vision_config.image_size
        return {**text, "pixel_values": torch.randn(2, 3, size, size, generator=generator)}, kept
    if name == "input_ids":
        return _text()
    if name == "pixel_values":
        size = config.image_size
        return {name: torch.randn(2, config.num_channels, size, size, generator=generator)}, None
    if name == "input_features":
        return {name: torch.randn(2, config.num_mel_bins, 2 * LENGTH, generator=generator)}, None
    raise ValueError(f"the model reads {name}")


def _text() -> tuple[dict[str, Tensor], Tensor]:
    """Two rows of token ids, the first one padded on the left."""
    ids = torch.randint(3, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :PADDING] = 0
    return {"input_ids": ids, "attention_mask": mask}, mask.bool()
