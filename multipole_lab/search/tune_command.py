"""`multipole-lab tune`: the fastest method under an error on a captured sample, as a line to paste."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``tune`` to the command line."""
    parser = subparsers.add_parser(
        "tune", help="find the fastest method under an error", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add_sample(parser)
    add("--max-error", type=float, default=0.02, help="relative squared error allowed; default: 0.02")
    add(
        "--length",
        type=int,
        metavar="N",
        help="tokens; default: the sample's. Beyond them tokens are drawn again",
    )
    add("--method", action="append", metavar="METHOD", help="choose from these: 'MuSe(clusters=64, near=4)'; may be "
        "repeated")  # fmt: skip
    add("--held-out", metavar="SAMPLE", help="another sample of the same layers, to report on as well")
    add("--repeats", type=int, default=5, help="turns that a time is the median of; default: 5")
    add("--json", metavar="FILE", help="write everything found as JSON")
    add("--out", metavar="FILE", help="measurements as JSON lines, as they come; the same command continues there. "
        "Default: one in runs/ named after the settings; --fresh starts again")  # fmt: skip
    add("--fresh", action="store_true", help="measure again what an earlier run has measured")


def add_sample(parser: argparse.ArgumentParser) -> None:
    """The options that ``sweep`` and ``tune`` share."""
    add = parser.add_argument
    add(
        "--sample", default="smollm2", help="a shipped sample or the path of a captured one; default: smollm2"
    )
    add("--causal", action="store_true", help="causal attention instead of full")
    add("--layers", type=int, nargs="+", metavar="L", help="captured layers; default: all")
    add("--device", help="cpu or cuda; default: the GPU where there is one")
    add("--seed", type=int, default=0, help="default: 0")


def run(args: argparse.Namespace) -> int:
    """Search, print what was found; returns 1 where the choice does not hold on what was held out."""
    from multipole_lab.method_text import parse_method
    from multipole_lab.models import load_sample
    from multipole_lab.search.tuner import tune

    try:
        methods = args.method and [parse_method(text) for text in args.method]
        sample = load_sample(args.sample)
        held_out = args.held_out and load_sample(args.held_out)
        out = place(args, "tune", ("max_error", "length", "method", "held_out", "repeats"))
        with bar("tune") as progress:
            found = tune(
                sample, args.max_error, causal=args.causal, length=args.length, layers=args.layers, methods=methods,
                held_out=held_out, device=args.device, repeats=args.repeats, seed=args.seed, out=out,
                progress=progress,
            )  # fmt: skip
        print(f"{found}\n\nMeasured on {found.measured}")
        if args.json:
            path = found.save(args.json)
            print(f"\n{path}\nwith ml.load_choice({str(path)!r}).on(model): ...")
    except (ValueError, TypeError, OSError) as error:
        print(f"multipole-lab tune: {error}", file=sys.stderr)
        return 1
    return 0 if found.holds else 1


def place(args: argparse.Namespace, command: str, names: tuple[str, ...]) -> Path:
    """The file of measurements: the one that was named, or one that the same arguments on this machine find again."""
    from multipole_lab.devices import chosen_device
    from multipole_lab.environment import Measured
    from multipole_lab.journal import settings_hash
    from multipole_lab.measure.precision import default_dtype

    path = args.out and Path(args.out)
    if path is None:
        settings = {
            name: getattr(args, name) for name in ("sample", "causal", "layers", "device", "seed", *names)
        }
        device = chosen_device(args.device)
        settings |= Measured.here(device, default_dtype(device)).identity()
        path = Path("runs") / f"{command}-{settings_hash(settings)[:8]}.jsonl"
    if args.fresh:
        path.unlink(missing_ok=True)
    elif path.is_file():
        print(f"{path} keeps earlier measurements; continuing there (--fresh starts again)", file=sys.stderr)
    return path


class bar:
    """A progress bar on the error stream, as a callback ``(done, total)``."""

    def __init__(self, name: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=100, desc=name, unit="%", bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}"
        )

    def __enter__(self):
        return self

    def __call__(self, done: float, total: float) -> None:
        self._bar.n = 100 * done / total
        self._bar.refresh()

    def __exit__(self, *_: object) -> None:
        self._bar.close()
