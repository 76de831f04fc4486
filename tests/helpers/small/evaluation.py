"""Evaluations of a tiny model by the command line, and what is read of them."""

import json

import pandas
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from multipole_lab import cli
from multipole_lab.evaluation.longbench import FIELDS


def make_tokenizer():
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<s>", *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def make_model(**changes):
    """A seeded Llama of two layers with peaked attention, so that an approximation shows."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(**{**sizes, **heads, "eos_token_id": None, **changes})
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(6 if "proj" in name else 1)
    return model.eval()


def make_folder(path):
    """The folder of the model and its tokenizer."""
    make_model().save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return str(path)


def records(n=3):
    """Questions as LongBench has them."""
    return [
        {
            **dict.fromkeys(FIELDS, "Word. " * 10), "_id": f"q{i}", "length": ("short", "long")[i % 2],
            "difficulty": "easy", "domain": "one", "answer": "ABCD"[i % 4], "context": f"It is {i}. " * (20 + 40 * i),
        }
        for i in range(n)
    ]  # fmt: skip


def write_records(path, rows):
    """Write them as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def evaluate(*words):
    """`multipole-lab eval`, and what it returns."""
    return cli.main(["eval", *map(str, words)])


def refused(capsys, *words):
    """What it says where it refuses."""
    assert evaluate(*words) == 1
    printed = capsys.readouterr().err.splitlines()[-1]
    assert printed.startswith("multipole-lab eval ")
    return printed


def rows_of(out):
    """The results that a folder keeps."""
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()[1:]]


def table_of(out):
    """Its table, less the times."""
    return pandas.read_csv(out / "table.csv").drop(columns="seconds")
