"""`multipole-lab bench generate`: a token of `model.generate` with a clustered cache and with dense ones.

Every side generates the same tokens, those that are likeliest with ``DynamicCache``, so that their distributions can
be compared. All steps count: the first one, in which the prompt is clustered, and those in which keys join.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from multipole_lab.bench.record import Record, add_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from multipole_lab.bench.decode.generation import Generated, Side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench generate``."""
    add = parser.add_argument
    add("--prompt", type=int, nargs="+", default=[8192], metavar="N", help="tokens; default: 8192")
    add("--batch", type=int, nargs="+", default=[1], metavar="B", help="texts at once; default: 1")
    add("--new", type=int, default=256, metavar="N", help="tokens generated, 2 at least; default: 256")
    add("--budget", type=float, nargs="+", default=[0.05], help="keys (128) or shares (0.05); default: 0.05")
    add("--levels", type=int, nargs="+", default=[2], choices=[1, 2], help="default: 2")
    add(
        "--dense-until",
        type=int,
        metavar="N",
        help="keys below which ours is dense; default: where clusters pay",
    )
    add("--turns", type=int, default=3, help="runs a side, in turns, of which the median counts; default: 3")
    add(
        "--model", help="smollm2, a hub id or a folder; default: a Llama with random weights, of these sizes:"
    )
    add("--layers", type=int, default=8, help="default: 8")
    add("--hidden", type=int, default=4096, help="default: 4096")
    add("--heads", type=int, nargs=2, default=[32, 8], metavar=("HQ", "HK"), help="default: 32 8")
    add("--head-size", type=int, default=128, metavar="D", help="default: 128")
    add("--vocabulary", type=int, default=32000, help="default: 32000")
    add("--text", default="python-topics", help="with --model: a file, reading or (default) python-topics")
    add("--compiler", default="inductor", help="torch.compile's backend; default: inductor")
    add("--eager", action="store_true", help="leave compiled sides out")
    add("--cudnn", action="store_true", help="with cuDNN's attention, which plans again for every length")
    add("--threads", type=int, help="threads of torch; default: its own choice")
    add("--device", default="cpu", help="default: cpu")
    add("--dtype", choices=["bfloat16", "float16", "float32"], help="default: the device's usual one")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print one row a side; returns the exit status."""
    import torch

    from multipole_lab.devices import missing_device
    from multipole_lab.measure.precision import default_dtype_name

    problem = missing_device(args.device)
    if args.new < 2:
        problem = f"--new is {args.new}; 2 tokens are needed, for the first one comes with the prompt"
    if problem:
        print(f"multipole-lab bench generate: {problem}", file=sys.stderr)
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    args.dtype = args.dtype or default_dtype_name(args.device)
    try:
        model, tokenizer = _model(args)
        prompts = {(n, B): _prompt(args, model, tokenizer, n, B) for n in args.prompt for B in args.batch}
    except (ValueError, OSError, RuntimeError) as error:
        print(f"multipole-lab bench generate: {error}", file=sys.stderr)
        return 1
    what = (
        args.model
        or f"random Llama, {args.layers} layers, heads {args.heads[0]}/{args.heads[1]} of {args.head_size}"
    )
    record = Record(args.json, args.device, args.dtype, model=what, new=args.new, turns=args.turns)
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(args.cudnn and cudnn)
    try:
        with torch.no_grad():
            for (n, B), ids in prompts.items():
                for row in measure(model, ids.to(args.device), _sides(model, args), args):
                    row = {"prompt": n, "batch": B, **row}
                    record.add(row, _line(row))
    finally:
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
    return 0


def measure(
    model: PreTrainedModel, ids: torch.Tensor, sides: list[Side], args: argparse.Namespace
) -> Iterator[dict]:
    """A row a side, of the run whose mean step is the median of its runs; a first run of each is not counted.

    ``of_dense`` is the mean step over that of the fastest dense side of the same mode, compiled or not.
    """
    import torch

    from multipole_lab.bench.decode.generation import divergence, generated

    torch.compiler.reset()  # what was compiled for other shapes would have these compiled for any
    runs: dict[str, list[Generated]] = {side.name: [] for side in sides}
    reference = generated(model, ids, args.new, sides[0])
    for turn in range(args.turns + 1):
        for side in sides:
            one = generated(model, ids, args.new, side, reference.tokens, args.compiler)
            if turn:
                runs[side.name].append(one)
    chosen = {name: sorted(found, key=_mean)[(len(found) - 1) // 2] for name, found in runs.items()}
    for side in sides:
        one = chosen[side.name]
        dense = [_mean(chosen[x.name]) for x in sides if not x.ours and x.compiled == side.compiled]
        yield {
            "side": side.name,
            "compiled": side.compiled,
            **one.figures(),
            "of_dense": _mean(one) / min(dense) if dense else None,
            "mean_ms_of_turns": [_mean(found) for found in runs[side.name]],
            "kl": divergence(reference, one),
        }


def _mean(one: Generated) -> float:
    return statistics.fmean(one.times[1:])


def _sides(model: PreTrainedModel, args: argparse.Namespace) -> list[Side]:
    """The dense caches, the one that says what is generated first, and ours for every budget and levels."""
    from transformers import DynamicCache, StaticCache

    from multipole_lab.bench.decode.generation import Side
    from multipole_lab.decoding import MultipoleCache

    config = model.config
    sides = [
        Side("DynamicCache", lambda B, n: DynamicCache()),
        Side(
            "StaticCache, compiled", lambda B, n: StaticCache(config=config, max_cache_len=n), compiled=True
        ),
    ]
    for budget in args.budget:
        budget = budget if 0 < budget < 1 else int(budget)
        for levels in args.levels:
            name = f"MultipoleCache({budget:g}, {levels} level{'s' * (levels > 1)})"

            def make(B: int, n: int, budget: int | float = budget, levels: int = levels) -> MultipoleCache:
                return MultipoleCache(budget=budget, levels=levels, dense_until=args.dense_until)

            sides.append(Side(name, make, ours=True))
            sides.append(Side(f"{name}, compiled", make, compiled=True, ours=True))
    return [side for side in sides if not (side.compiled and args.eager)]


def _model(args: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The model, which never ends a text by itself, and the tokenizer of one that is no random one."""
    import torch

    dtype, device, tokenizer = getattr(torch, args.dtype), torch.device(args.device), None
    if args.model:
        from multipole_lab.models.loading import load_model

        model, tokenizer = load_model(args.model, device=device, dtype=dtype)
    else:
        from transformers import LlamaConfig, LlamaForCausalLM

        Hq, Hk = args.heads
        config = LlamaConfig(
            hidden_size=args.hidden, num_attention_heads=Hq, num_key_value_heads=Hk, head_dim=args.head_size,
            num_hidden_layers=args.layers, intermediate_size=7 * args.hidden // 2, vocab_size=args.vocabulary,
            max_position_embeddings=max(args.prompt) + args.new,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        )  # fmt: skip
        torch.manual_seed(0)
        with device:
            model = LlamaForCausalLM(config).to(dtype).eval()
    model.generation_config.eos_token_id = None
    return model, tokenizer


def _prompt(
    args: argparse.Namespace,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    n: int,
    batch: int,
) -> torch.Tensor:
    """[B, N] tokens: random ones, or a text, whose every row begins a little later.

    Raises
    ------
    ValueError : a text that is too short, or cannot be read.
    """
    import torch

    if tokenizer is None:
        g = torch.Generator().manual_seed(0)
        return torch.randint(0, model.config.vocab_size, (batch, n), generator=g)
    from multipole_lab.evaluation.generate import read_tokens

    apart = 97
    ids = read_tokens(tokenizer, args.text, n + apart * (batch - 1))[0]
    return torch.stack([ids[apart * i : apart * i + n] for i in range(batch)])


def _line(r: dict) -> str:
    dense = "" if r["of_dense"] is None else f", {r['of_dense']:.2f} of dense"
    peak = "" if r["peak_megabytes"] is None else f", {r['peak_megabytes']:,.0f} at the peak"
    return (
        f"prompt {r['prompt']:,}, batch {r['batch']}, {r['side']}: first token {r['first_token_ms']:,.0f} ms; then "
        f"{r['mean_ms']:.2f} ms a token in the mean{dense}, median {r['median_ms']:.2f}, p99 {r['p99_ms']:.2f}, first "
        f"step {r['first_step_ms']:.1f}; cache {r['cache_megabytes']:,.1f} MB{peak}; KL {r['kl']:.6f}"
    )
