"""`multipole-lab bench sparsity`: partitions and expansion points compared at the same sparsity, as a table.

Matched means the same number of exactly summed query-key pairs and the same number of summaries a query sees.
"""

from __future__ import annotations

import argparse

from multipole_lab.bench.record import Record, add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's options."""
    add = parser.add_argument
    add("--sample", default="smollm2")
    add("--n", type=int, default=4096)
    add("--clusters", type=int, default=64)
    add("--near", type=int, nargs="+", default=[0, 4])
    add("--causal", action="store_true")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the error of every layer and method."""
    import torch

    from multipole_lab.attention import Centroid, Exact, MuSe
    from multipole_lab.measure.errors import relative_squared_error
    from multipole_lab.models import load_sample

    sample = load_sample(args.sample)
    record = Record(args.json, "cpu", "float32", sample=args.sample)
    for near in args.near:
        for layer in sample.layers:
            q, k, v = (x[:, :, : args.n] for x in (sample[layer].q, sample[layer].k, sample[layer].v))
            exact = Exact()(q, k, v, causal=args.causal, scale=sample.scale)
            # With a near field, equal sizes (cap=1) make it the same number of tokens for all three.
            cap = 1.0 if near else 1.5
            methods = {
                "MuSe": MuSe(clusters=args.clusters, near=near, cap=cap),
                "runs": MuSe(clusters=args.clusters, near=near, partition="runs"),
                "Centroid": Centroid(
                    clusters=args.clusters, budget=near * (q.shape[2] // args.clusters), cap=cap
                ),
            }
            row = {
                "layer": layer,
                "near": near,
                "n": q.shape[2],
                "clusters": args.clusters,
                "causal": args.causal,
            }
            with torch.no_grad():
                for name, method in methods.items():
                    out = method(q, k, v, causal=args.causal, scale=sample.scale)
                    row[name] = relative_squared_error(out, exact).item()
            errors = "  ".join(f"{name} {row[name]:.4f}" for name in methods)
            record.add(row, f"layer {layer:3d}  near {near}  {errors}")
    return 0
