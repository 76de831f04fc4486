"""What a user writes, for the type checker alone: `mypy` reads it in `make quick`, and nobody runs it."""

from typing import assert_type

import multipole_lab as ml
from multipole_lab import (
    attention,
    clustering,
    decoding,
    evaluation,
    figures,
    measure,
    models,
    parallel,
    search,
)

sample = ml.load_sample("smollm2")
assert_type(sample, models.Sample)
layer = sample[15]
assert_type(layer, models.LayerSample)

method = ml.MuSe(clusters=64, order="dipole", near=4, partition="kmeans")
assert_type(method, ml.MuSe)
methods: list[attention.Method] = [method, ml.Centroid(budget=128), ml.TopK(keys=8), ml.Window(), ml.Exact()]
out = method(layer.q, layer.k, layer.v, causal=True)
ml.merge(
    [
        method(layer.q, layer.k, layer.v, return_lse=True),
        ml.Exact()(layer.q, layer.k, layer.v, return_lse=True),
    ]
)

clusters = ml.kmeans(layer.k, clusters=64, iterations=1, cap=1.5, seed=0)
assert_type(clusters, clustering.Clusters)
assert_type(ml.balanced(layer.k, size=64), clustering.Clusters)

table = ml.compare(sample, methods, causal=True)
best = ml.tune(sample, max_error=0.02)
rows = ml.sweep(sample, methods, lengths=[1024, 2048])
assert_type(measure.machine("cpu"), str)

cache = ml.MultipoleCache(fraction=1 / 16, budget=128, levels=2, sinks=10, recent=128)
assert_type(cache, decoding.MultipoleCache)
model, tokenizer = ml.load_model("smollm2")
with method.on(model, layers=[1, 2]), cache.on(model):
    pass
captured = ml.capture(model, tokenizer, "a text", layers=[3], max_tokens=512)
assert_type(captured, models.Sample)

spread = parallel.ContextParallel(method, traffic=parallel.Traffic())
assert_type(search.fit_cost_model(rows), search.CostModel)
journal: type[evaluation.Journal] = evaluation.Journal
figure = figures.lines
