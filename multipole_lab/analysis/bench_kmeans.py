"""`multipole-lab bench kmeans`: time and inertia beside scikit-learn's, for the same work in the same run."""

from __future__ import annotations

import argparse
import json
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's options."""
    add = parser.add_argument
    add("--n", type=int, default=8192, help="vectors a head; default: 8192")
    add("--heads", type=int, default=8)
    add("--clusters", type=int, nargs="+", default=[64, 512])
    add("--iterations", type=int, default=10)
    add("--sample", default="smollm2", help="a captured sample whose keys are clustered, or 'random'")
    add("--dim", type=int, default=64, help="of random inputs")
    add("--repeats", type=int, default=3)
    add("--json", action="store_true", help="one JSON object a line instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print a row for each number of clusters."""
    import warnings

    from sklearn.cluster import KMeans

    from multipole_lab.analysis.inputs import heads_of
    from multipole_lab.analysis.timing import interleaved
    from multipole_lab.clustering import kmeans

    try:
        _, x, _, source = heads_of(args.sample, None, args.heads, args.n, args.dim)
    except (ValueError, OSError) as error:
        print(f"multipole-lab bench kmeans: {error}", file=sys.stderr)
        return 2
    for count in args.clusters:
        init = x[:, :, :: args.n // count][:, :, :count].contiguous()
        arrays = [(x[0, h].numpy(), init[0, h].numpy()) for h in range(args.heads)]

        def theirs(arrays=arrays, count=count):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says that it did not converge, as it was told to
                settings = {"n_init": 1, "max_iter": args.iterations, "tol": 0.0, "algorithm": "lloyd"}
                return [KMeans(count, init=start, **settings).fit(data) for data, start in arrays]

        def ours(init=init, count=count):
            return kmeans(x, count, iterations=args.iterations, init=init)

        times = interleaved({"sklearn": theirs, "ours": ours}, repeats=args.repeats)
        clusters = ours()
        chosen = clusters.centroids.gather(2, clusters.labels.unsqueeze(-1).expand_as(x))
        inertia = (x - chosen).square().sum().item()
        row = {
            "clusters": count, "n": args.n, "heads": args.heads, "iterations": args.iterations, "source": source,
            "sklearn_ms": times["sklearn"], "ms": times["ours"], "ratio": times["ours"] / times["sklearn"],
            "inertia": inertia, "inertia_ratio": inertia / sum(float(m.inertia_) for m in theirs()),
        }  # fmt: skip
        if args.json:
            print(json.dumps(row), flush=True)
        else:
            print(
                f"{count:5d} clusters: {row['ms']:8.1f} ms, scikit-learn {row['sklearn_ms']:8.1f} ms, "
                f"ratio {row['ratio']:.2f}, inertia ratio {row['inertia_ratio']:.5f} ({source})"
            )
    return 0
