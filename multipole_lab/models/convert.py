"""Turn a GGUF file into a folder that transformers opens in a second."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch


def gguf_to_safetensors(gguf: Path, folder: Path) -> None:
    """Dequantise the weights to fp32, once, and write them with the configuration and the tokenizer.

    fp32 because a dequantised weight (a scale times 4 bits plus an offset) does not fit 16 bits exactly.

    Raises
    ------
    ImportError
        When the packages that read GGUF are missing; it says how to install them.
    """
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"to read {gguf.name}, first run: pip install {' '.join(missing)}")
    from safetensors.torch import save_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"converting {gguf.name} to safetensors, once ...", flush=True)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # save_pretrained refuses a model that came quantised; these weights no longer are.
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
