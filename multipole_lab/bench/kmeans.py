"""`multipole-lab bench kmeans`: time and inertia of the lab's k-means beside other libraries', the same work each."""

from __future__ import annotations

import argparse
import sys

from multipole_lab.bench.record import Record, add_json
from multipole_lab.devices import missing_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's options."""
    add = parser.add_argument
    add("--n", type=int, default=8192, help="vectors a head; default: 8192")
    add("--heads", type=int, default=8)
    add("--clusters", type=int, nargs="+", default=[64, 512])
    add("--iterations", type=int, default=10)
    add("--sample", default="smollm2", help="a captured sample whose keys are clustered, or 'random'")
    add("--dim", type=int, default=64, help="of random inputs")
    add(
        "--device",
        default="cpu",
        help="cuda times the kernels against flash-kmeans; cpu torch against scikit-learn",
    )
    add(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="default: float16 on cuda, float32 elsewhere",
    )
    add("--repeats", type=int, default=3)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print a row for each number of clusters."""
    from multipole_lab.measure.inputs import heads_of

    if problem := missing_device(args.device):
        print(f"multipole-lab bench kmeans: {problem}", file=sys.stderr)
        return 2
    args.dtype = args.dtype or ("float16" if args.device.startswith("cuda") else "float32")
    record = Record(args.json, args.device, args.dtype, heads=args.heads, n=args.n)
    try:
        _, x, _, source = heads_of(args.sample, None, args.heads, args.n, args.dim)
        for count in args.clusters:
            row = {**measure(args, x, count), "source": source}
            record.add(row, text_of(row))
    except (ValueError, OSError) as error:
        print(f"multipole-lab bench kmeans: {error}", file=sys.stderr)
        return 2
    return 0


def measure(args: argparse.Namespace, x, count: int) -> dict:
    """Milliseconds and inertia of every side, from the same starting centroids."""
    import torch

    from multipole_lab.measure.cold_inputs import copies_of, cycled
    from multipole_lab.measure.timing import interleaved

    x = x.to(args.device, getattr(torch, args.dtype))
    init = x[:, :, :: args.n // count][:, :, :count].contiguous()
    calls, skipped = (on_gpu if x.is_cuda else on_cpu)(count, args.iterations)
    sets = copies_of([x, init])
    with torch.no_grad():
        sides = {name: cycled(call, sets) for name, call in calls.items()}
        times = interleaved(sides, args.repeats, warmup=2 if x.is_cuda else 1, device=args.device)
        inertias = {name: inertia(x, call(x, init)) for name, call in calls.items()}
    ms, mine = times.pop("ours"), inertias.pop("ours")
    best = min(times, key=times.get, default=None)
    row = {
        "clusters": count, "n": args.n, "heads": args.heads, "iterations": args.iterations, "dtype": args.dtype,
        "ms": ms, "inertia": mine, "reference": best, "sides": times, "inertias": inertias, "skipped": skipped,
    }  # fmt: skip
    if best:
        row |= {
            "reference_ms": times[best],
            "ratio": ms / times[best],
            "inertia_ratio": mine / inertias[best],
        }
    return row


def on_cpu(count: int, iterations: int) -> tuple[dict, dict]:
    """The torch k-means and scikit-learn's; each returns labels [1, H, N]."""
    import warnings

    import torch
    from sklearn.cluster import KMeans

    from multipole_lab.clustering import kmeans

    def sklearn(x, init):
        labels = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it did not converge, as it was asked to
            for data, start in zip(x[0].numpy(), init[0].numpy(), strict=True):
                settings = {"n_init": 1, "max_iter": iterations, "tol": 0.0, "algorithm": "lloyd"}
                labels.append(torch.from_numpy(KMeans(count, init=start, **settings).fit(data).labels_))
        return torch.stack(labels)[None].long()

    def ours(x, init):
        return kmeans(x, count, iterations=iterations, init=init).labels

    skipped = {"flash-kmeans": "runs on a GPU: --device cuda"}
    return {"sklearn": sklearn, "ours": ours}, skipped


def on_gpu(count: int, iterations: int) -> tuple[dict, dict]:
    """The kernels, the torch k-means on the same GPU, and flash-kmeans (pip install flash-kmeans)."""
    from multipole_lab.clustering import kmeans
    from multipole_lab.kernels.clustering.kmeans import kmeans as kernels

    calls = {
        "ours": lambda x, init: kernels(x, init.float(), iterations)[0],
        "torch": lambda x, init: kmeans(x, count, iterations=iterations, init=init).labels,
    }
    try:
        from flash_kmeans import batch_kmeans_Euclid
    except ImportError:
        return calls, {"flash-kmeans": "not installed: pip install flash-kmeans"}

    def flash(x, init):
        # The lab's last assignment follows the last move of the centroids, so this needs one more.
        labels = batch_kmeans_Euclid(x[0], count, max_iters=iterations + 1, tol=-1.0, init_centroids=init[0])[
            0
        ]
        return labels[None].long()

    calls["flash-kmeans"] = flash
    return calls, {}


def inertia(x, labels) -> float:
    """Sum of squared distances to the means of the clusters."""
    from multipole_lab.clustering.clusters import Clusters

    x = x.float()
    clusters = Clusters.from_labels(x, labels, int(labels.max()) + 1)
    chosen = clusters.centroids.gather(2, labels.unsqueeze(-1).expand_as(x))
    return (x - chosen).double().square().sum().item()


def text_of(row: dict) -> str:
    """A row as a line, and a line for each side that was left out."""
    text = f"{row['clusters']:5d} clusters: {row['ms']:8.2f} ms, inertia {row['inertia']:.6g}"
    for name, ms in row["sides"].items():
        part = row["inertias"][name]
        text += (
            f"; {name} {ms:8.2f} ms (ratio {row['ms'] / ms:.2f}, inertia ratio {row['inertia'] / part:.5f})"
        )
    return "\n".join([text, *(f"  {name} left out: {why}" for name, why in row["skipped"].items())])
