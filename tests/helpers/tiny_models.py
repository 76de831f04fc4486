"""One tiny random model of every architecture that the tests of dropping in use."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

import multipole_lab as ml

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "max_position_embeddings": 256,
}
GROUPED = {"num_key_value_heads": 2}
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
EXPERTS = {
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}

TINY = {
    "llama": (LlamaForCausalLM, LlamaConfig, GROUPED),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, GROUPED),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**GROUPED, "head_dim": 8}),
    "mistral": (MistralForCausalLM, MistralConfig, {**GROUPED, "sliding_window": 128}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {**GROUPED, **SLIDING, "head_dim": 16}),
    "gpt-neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
    "gpt-oss": (GptOssForCausalLM, GptOssConfig, {**GROUPED, **SLIDING, **EXPERTS, **TOKENS, "head_dim": 8}),
    "bert": (BertModel, BertConfig, {}),
    "modernbert": (ModernBertModel, ModernBertConfig, {**TOKENS, "local_attention": 16}),
}
DECODERS = [name for name in TINY if "bert" not in name]


def tiny(name: str, **changes: object) -> PreTrainedModel:
    """A seeded random model of three layers in evaluation mode, its weights large enough that attention matters.

    In double precision, where torch's products of experts know it: k-means is a choice, and in single precision the
    rounding of another thread count or batch can tip it.
    """
    kind, config, own = TINY[name]
    torch.manual_seed(0)
    model = kind(config(**{**SIZES, **own, **changes})).eval()
    model = model if name == "gpt-oss" else model.double()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(6)
    return model


def gemma2() -> PreTrainedModel:
    """A model with soft-capped logits, which no method honours."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "vocab_size": 64,
        "head_dim": 8,
    }
    return Gemma2ForCausalLM(Gemma2Config(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()


def t5() -> PreTrainedModel:
    """An encoder with position biases."""
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
    return T5EncoderModel(T5Config(**sizes)).eval()


def save_byte_llama(folder: Path) -> str:
    """Write a tiny random model and a tokenizer of one token a byte; returns the folder."""
    words = {c: i + 3 for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab={"<pad>": 0, "<s>": 1, "</s>": 2, **words}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    changes = {"vocab_size": 259, "num_hidden_layers": 2, "max_position_embeddings": 1024, "pad_token_id": 0}
    tiny("llama", **changes).float().save_pretrained(folder)
    return str(folder)


def ids_of(batch: int = 2, length: int = 60, seed: int = 0) -> torch.Tensor:
    """Random token ids without special ones."""
    return torch.randint(3, 64, (batch, length), generator=torch.Generator().manual_seed(seed))


SMALL = ml.MuSe(clusters=8, leaf=16)
FULL = ["llama", "qwen2", "qwen3", "mistral", "gpt-neox", "bert"]  # every layer attends to the whole text


def read(model, ids, **arguments):
    """The first output: logits of a decoder, hidden states of an encoder."""
    with torch.no_grad():
        return model(ids, **arguments)[0]


def close(got, expected, **tolerance):
    torch.testing.assert_close(got, expected, **{"rtol": 1e-4, "atol": 1e-4, **tolerance})


def differ(a, b):
    return (a - b).abs().max().item() > 1e-3
