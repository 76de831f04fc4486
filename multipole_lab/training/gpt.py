"""The GPT that is pretrained: a transformers Llama, small, so that its weights load anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multipole_lab.suggesting import suggesting
from multipole_lab.training.presets import Preset

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@suggesting
def build_model(
    preset: Preset, tokenizer: PreTrainedTokenizerFast | None = None, seed: int = 0
) -> LlamaForCausalLM:
    """A model with fresh weights, the same for the same seed; attention is exact until it is configured.

    RoPE, RMSNorm, a gated MLP, no biases, input and output embeddings apart: ``AutoModelForCausalLM`` loads what its
    ``save_pretrained`` writes, without this package.

    Parameters
    ----------
    preset : sizes. tokenizer : for the vocabulary's size and the end-of-text token; ``preset.vocab`` without it.
    seed : of the weights; the global random state is left as it was.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    end = None if tokenizer is None else tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=preset.vocab if tokenizer is None else len(tokenizer),
        hidden_size=preset.width,
        intermediate_size=preset.mlp,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        num_key_value_heads=preset.heads,
        max_position_embeddings=preset.context,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        use_cache=False,  # no cache while it learns
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):  # weights are made on the CPU
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.config.use_cache = True  # what its users will want
    return model


@suggesting
def parameter_counts(model) -> dict[str, int]:
    """How many parameters are where: embeddings, attention, mlp, norms, head, and in total."""
    counts = {"embeddings": 0, "attention": 0, "mlp": 0, "norms": 0, "head": 0}
    for name, parameter in model.named_parameters():
        kinds = {
            "embed": "embeddings",
            "self_attn": "attention",
            "mlp": "mlp",
            "norm": "norms",
            "lm_head": "head",
        }
        kind = next(kind for part, kind in kinds.items() if part in name)
        counts[kind] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


def describe(model) -> str:
    """One line: sizes and counts."""
    c, counts = model.config, parameter_counts(model)
    parts = ", ".join(f"{kind} {count / 1e6:.2f}M" for kind, count in counts.items() if kind != "total")
    return (
        f"{counts['total'] / 1e6:.1f}M parameters ({parts}); {c.num_hidden_layers} layers, width {c.hidden_size}, "
        f"{c.num_attention_heads} heads, context {c.max_position_embeddings:,}, vocabulary {c.vocab_size:,}"
    )
