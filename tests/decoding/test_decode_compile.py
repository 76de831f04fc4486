"""A model compiled with ``MultipoleCache`` is one graph, good for every cache and length, and writes the same text."""

import copy

import pytest
import torch
from exact_cache import EXACT
from tiny_models import tiny
from transformers import CompileConfig

import multipole_lab as ml
from multipole_lab.threads import one_thread

ROUGH = EXACT | {"budget": 8}


@pytest.fixture(autouse=True)
def _quick():
    torch.compiler.reset()
    with one_thread():
        yield
    torch.compiler.reset()


def tokens(n, batch=2):
    return torch.randint(3, 60, (batch, n), generator=torch.Generator().manual_seed(n))


def counting():
    """A backend that runs graphs as they are, and the sizes of those that it was given."""
    graphs = []

    def backend(graph, inputs, **_):
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    return backend, graphs


def test_generate_compiles_its_steps_by_itself_once_for_every_cache():
    model, ids, (backend, graphs) = tiny("llama", num_hidden_layers=2), tokens(50), counting()
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    asked = {"attention_mask": mask, "max_new_tokens": 14, "do_sample": False}
    plain = model.generate(ids, **asked, past_key_values=ml.MultipoleCache(**ROUGH))
    how = CompileConfig(backend=backend, fullgraph=True)
    how._compile_all_devices = True  # as on a GPU
    counts = []
    for _ in range(2):
        cache = ml.MultipoleCache(**ROUGH)
        assert torch.equal(model.generate(ids, **asked, past_key_values=cache, compile_config=how), plain)
        assert all(layer.hierarchy.blocks and not layer.dense_steps for layer in cache.layers)
        counts.append(len(graphs))
    assert counts == [2, 2]  # the second is for masks of any length
    assert not torch.equal(model.generate(ids, **asked), plain)  # so clusters matter here


def test_a_compiled_model_reads_prompts_tokens_and_copies_as_an_eager_one():
    model, (backend, graphs) = tiny("llama", num_hidden_layers=2), counting()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    caches = [ml.MultipoleCache(**ROUGH) for _ in range(2)]
    with torch.no_grad(), caches[0].on(model):
        for ids in (tokens(50), *tokens(2).split(1, 1), tokens(5)):
            ours, eager = (
                run(ids, past_key_values=cache, use_cache=True).logits
                for run, cache in zip((compiled, model), caches, strict=True)
            )
            torch.testing.assert_close(ours, eager, atol=1e-5, rtol=1e-4)
        again = copy.deepcopy(caches[0])
        compiled(tokens(1), past_key_values=again, use_cache=True)
    assert again.get_seq_length() == caches[0].get_seq_length() + 1 == 58
    assert 0 < len(graphs) <= 5  # by the number of tokens, whatever the length; a copy asks for one more


def test_a_compiled_model_without_such_a_cache_stays_one_graph():
    """The attention function that looks for our keys is in every graph once there was a cache."""
    ml.MultipoleCache()
    model, ids, (backend, graphs) = tiny("llama", num_hidden_layers=2), tokens(20), counting()
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    with torch.no_grad():
        asked = {"attention_mask": mask, "use_cache": False}
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        torch.testing.assert_close(compiled(ids, **asked).logits, model(ids, **asked).logits)
    assert len(graphs) == 1
