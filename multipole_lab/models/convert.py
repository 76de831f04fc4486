"""Turn a GGUF file into a folder that transformers opens in a second."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from multipole_lab import extras

CONTROL = 3  # the type that GGUF gives to tokens such as <|im_start|>


def gguf_to_safetensors(gguf: Path, folder: Path) -> None:
    """Dequantise the weights to fp32, once, and write them with the configuration and the tokenizer.

    fp32 because a dequantised weight (a scale times 4 bits plus an offset) does not fit 16 bits exactly.

    Raises
    ------
    MissingPackage
        When the packages that read GGUF are missing; it says how to install them.
    """
    extras.require(f"reading {gguf.name}", "models", "gguf", "accelerate")
    from safetensors.torch import save_model
    from transformers import AutoModelForCausalLM

    print(f"converting {gguf.name} to safetensors, once ...", flush=True)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # save_pretrained refuses a model that came quantised; these weights no longer are.
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    gguf_tokenizer(gguf).save_pretrained(folder)


def gguf_tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file, token for token the one on the hub.

    transformers can read it too, but versions differ in what they make of it: one drops the rule that digits
    stand alone, another adds a token at the start.

    Raises
    ------
    ValueError
        For a kind of tokenizer other than SmolLM's: byte-level BPE with single digits.
    """
    from gguf import GGUFReader
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(gguf).fields

    def read(name: str) -> object:
        return fields[f"tokenizer.{name}"].contents()

    if (read("ggml.model"), read("ggml.pre")) != ("gpt2", "smollm"):
        raise ValueError(f"{gguf.name} has a {read('ggml.pre')} tokenizer; only smollm is understood")
    tokens = read("ggml.tokens")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in read("ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = read("ggml.token_type")
    tokenizer.add_special_tokens(
        [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[read("ggml.bos_token_id")],
        eos_token=tokens[read("ggml.eos_token_id")],
        pad_token=tokens[read("ggml.padding_token_id")],
        unk_token=tokens[read("ggml.unknown_token_id")],
        model_max_length=fields["llama.context_length"].contents(),
        chat_template=read("chat_template"),
        clean_up_tokenization_spaces=False,
    )
