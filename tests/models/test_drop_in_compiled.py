"""A drop-in inside torch.compile: one graph for the whole model, with the numbers of the eager one."""

import pytest
import torch
from tiny_models import SMALL, close, gemma2, ids_of, t5, tiny

from multipole_lab.interface.functions import hooked
from multipole_lab.interface.masks import structure_of
from multipole_lab.models.drop_in_names import configure_attention

PADDED = torch.ones(2, 60, dtype=torch.long)
PADDED[0, :13], PADDED[1, 41:] = 0, 0
PACKED = torch.cat([torch.arange(25), torch.arange(35)])[None].expand(2, -1)
GIVEN = {
    "a cache": {},
    "no cache, which may be packed": {"use_cache": False},
    "packed": {"use_cache": False, "position_ids": PACKED},
    "padding": {"attention_mask": PADDED},
    "nothing to pad": {"attention_mask": torch.ones_like(PADDED)},
    "a mask written out": {"attention_mask": (torch.ones(60, 60).tril() > 0).expand(2, 1, 60, 60)},
}


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def whole(model, backend="eager", **given):
    """The model as one graph, which fails where there would be two."""
    return torch.compile(lambda ids: model(ids, **given)[0], fullgraph=True, backend=backend)


def small():
    return tiny("llama", num_hidden_layers=1), ids_of()


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
@torch.no_grad()
def test_one_graph_has_the_eager_numbers_whatever_the_mask(given):
    model, ids = small()
    with SMALL.on(model):
        expected = model(ids, **given)[0]
        got = whole(model, **given)(ids)
    seen = given["attention_mask"] > 0 if given.get("attention_mask", ids[None]).ndim == 2 else ids > 0
    close(got[seen], expected[seen])
    assert (expected - model(ids, **given)[0])[seen].abs().max() > 1e-3


@pytest.mark.parametrize("name", ["gemma3", "gpt-oss", "bert", "modernbert"])
@torch.no_grad()
def test_windows_stay_exact_and_sinks_and_encoders_are_traced(name):
    model, ids = tiny(name), ids_of()
    with SMALL.on(model):
        expected = model(ids, attention_mask=PADDED)[0]
        got = whole(model, attention_mask=PADDED)(ids)
    close(got[PADDED > 0], expected[PADDED > 0])


def test_it_trains_in_one_graph():
    model, ids = small()

    def gradients(call):
        model.zero_grad()
        with SMALL.on(model):
            call(ids).square().mean().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = gradients(lambda ids: model(ids)[0])
    close(gradients(whole(model, backend="aot_eager")), expected)


@torch.no_grad()
def test_a_new_length_needs_no_new_graph_and_named_layers_stay_exact():
    model, graphs = tiny("llama", num_hidden_layers=2), []

    def noting(graph, _):
        calls = (node for node in graph.graph.nodes if node.op == "call_function")
        graphs.append([str(node.target) for node in calls if "multipole_lab" in str(node.target)])
        return graph

    with SMALL.on(model, layers=1):
        compiled = torch.compile(lambda ids: model(ids)[0], fullgraph=True, backend=noting)
        for length in (40, 52, 77):
            close(compiled(ids_of(2, length)), model(ids_of(2, length))[0])
    assert [len(graph) for graph in graphs] == [1, 1]


@torch.no_grad()
def test_a_configured_method_is_one_graph_too():
    model, ids = small()
    configure_attention(model, SMALL)
    close(whole(model)(ids), model(ids)[0])


def holes():
    mask = torch.ones(60, 60).tril() > 0
    mask[:, 20:30] = False
    return (mask | (torch.eye(60) > 0)).expand(2, 1, 60, 60)


def bias():
    return torch.randn(2, 4, 60, 60, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("make", [holes, bias])
@torch.no_grad()
def test_a_mask_that_only_exact_attention_honours_is_seen_when_the_graph_runs(make):
    model, ids = small()
    given = {"attention_mask": make()}
    expected = model(ids, **given)[0]
    with SMALL.on(model):
        close(whole(model, **given)(ids), expected)
    torch.compiler.reset()
    with SMALL.on(model, strict=True), pytest.raises(ValueError, match="only exact attention can honour it"):
        whole(model, **given)(ids)


@pytest.mark.parametrize("make", [gemma2, t5])
@torch.no_grad()
def test_what_no_method_honours_is_in_the_graph_by_the_models_own_attention(make):
    model, ids = make(), ids_of()
    expected = model(ids)[0]
    with SMALL.on(model):
        close(whole(model)(ids), expected)
    torch.compiler.reset()
    with SMALL.on(model, strict=True), pytest.raises(Exception, match="which MuSe cannot do"):
        whole(model)(ids)


@torch.no_grad()
def test_packed_texts_that_would_see_each_other_are_refused_when_the_graph_runs():
    model, ids = small()
    with SMALL.on(model), pytest.raises(RuntimeError, match="position_ids begin again"):
        whole(model, position_ids=PACKED, attention_mask=torch.ones_like(PADDED))(ids)


@torch.no_grad()
def test_a_graph_that_ends_early_hands_its_mask_on():
    model, ids = tiny("llama", num_hidden_layers=2), ids_of()
    graphs, masks = [], []

    def looking(former, module, query, key, value, mask, **kwargs):
        masks.append(structure_of(mask, 60, 60, lambda: True).keep)
        return former(module, query, key, value, mask, **kwargs)

    def noting(graph, _):
        graphs.append(graph)
        return graph

    with SMALL.on(model):
        expected = model(ids, attention_mask=PADDED)[0]
        handle = model.model.layers[1].register_forward_pre_hook(torch.compiler.disable(lambda *_: None))
        got = torch.compile(model, backend=noting)(ids, attention_mask=PADDED)[0]
        handle.remove()
        assert len(graphs) > 1
        close(got[PADDED > 0], expected[PADDED > 0])
        with hooked(model, looking):
            got = torch.compile(model, backend="eager")(ids, attention_mask=PADDED)[0]
        close(got[PADDED > 0], expected[PADDED > 0])
    assert len(masks) == 2
    assert all(torch.equal(keep, PADDED > 0) for keep in masks)
