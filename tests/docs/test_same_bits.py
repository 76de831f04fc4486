"""The guide's "The same numbers again" and "a loop of your own": bits on a CPU, atomic operations, checkpointing."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import multipole_lab as ml


@pytest.mark.parametrize("causal", [False, True])
def test_the_same_call_on_a_cpu_gives_the_same_bits(causal):
    layer, method = ml.load_sample("smollm2").crop(512)[15], ml.MuSe(clusters=16, near=2, leaf=128)
    found = []
    for _ in range(2):
        x = [y.clone().requires_grad_() for y in (layer.q, layer.k, layer.v)]
        out = method(*x, causal=causal)
        found.append((out, *torch.autograd.grad(out.square().sum(), x)))
    assert all(map(torch.equal, *found))


def test_the_atomic_operations_of_the_kernels_count_places_in_lists():
    folder = Path(importlib.util.find_spec("multipole_lab.kernels").origin).parent
    found = [
        (path.name, place)
        for path in folder.rglob("*.py")
        for place in re.findall(r"tl\.atomic_add\((\w+)", path.read_text())
    ]
    assert sorted(found) == [("crowds.py", "counts")] * 2 + [("settle.py", "counts")]


def tiny(checkpointing=False):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=99, **sizes)).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def gradient(model):
    return torch.cat([x.grad.flatten() for x in model.parameters()])


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
def test_backward_belongs_inside_where_layers_are_computed_again():
    ids, method, found = torch.arange(1, 97)[None], ml.MuSe(clusters=4, leaf=32), []
    for checkpointing in (False, True):
        with method.on(model := tiny(checkpointing)) as used:
            model(input_ids=ids, labels=ids).loss.backward()
        assert used.approximated
        found.append(gradient(model))
    with method.on(model := tiny()):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert torch.equal(gradient(model), found[0])
    assert torch.equal(*found)
    with method.on(model := tiny(True)):
        loss = model(input_ids=ids, labels=ids).loss
    with pytest.raises(torch.utils.checkpoint.CheckpointError, match="different number of tensors"):
        loss.backward()
