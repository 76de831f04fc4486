"""Every launcher gives the same numbers whatever the strides of its tensors: all launchers there are, all layouts."""

import functools
import itertools
import sys
import types

import pytest
import torch
from parallel_worker import Alone

import multipole_lab as ml
from multipole_lab import kernels
from multipole_lab.kernels.common import launch
from multipole_lab.kernels.report.problem import Problem
from multipole_lab.parallel import context

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROOT, COMMON, REPORT = (f"multipole_lab.kernels.{room}" for room in ("", "common.", "report."))
kernels.load_all()


def apart(x, dim):
    """The same numbers with as many others between them along a dimension."""
    dim %= x.ndim
    return torch.stack([x, x.flip(dim)], dim + 1).flatten(dim, dim + 1)[
        (slice(None),) * dim + (slice(None, None, 2),)
    ]


def at_an_offset(x):
    return torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape)


SAME = {
    "last dimension apart": lambda x: x.mT.contiguous().mT if x.ndim > 1 else apart(x, 0),
    "every second number": lambda x: apart(x, -1),
    "every second position": lambda x: apart(x, -2) if x.ndim > 1 else apart(x, 0),
    "dimensions reversed": lambda x: (
        x.permute(*range(x.ndim)[::-1]).contiguous().permute(*range(x.ndim)[::-1])
    ),
    "positions before heads": lambda x: (
        x.transpose(0, -2).contiguous().transpose(0, -2) if x.ndim > 1 else apart(x, 0)
    ),
    "an offset into storage": at_an_offset,
}
BROADCAST = {  # other numbers: compared with their own copy
    "batch": lambda x: x[:1].expand_as(x),
    "heads": lambda x: x[:, :1].expand_as(x) if x.ndim > 2 else x,
    "position": lambda x: x[..., :1, :].expand_as(x) if x.ndim > 1 and x.is_floating_point() else x,
    "number": lambda x: x[..., :1].expand_as(x) if x.is_floating_point() else x,
}
LAYOUTS = SAME | BROADCAST


def tensors_in(value):
    """All tensors of an argument or a result, however deep."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for x in value:
            yield from tensors_in(x)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def mapped(value, change):
    """The same argument with its tensors changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: mapped(x, change) for name, x in value.items()}
    if isinstance(value, (tuple, list)):
        changed = [mapped(x, change) for x in value]
        return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)
    return value


def functions():
    """Every function of the kernels by name, without what begins with _: all of the rooms with launchers, and of what
    they share those that start a kernel. The report starts none of its own."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith(ROOT) and not name.startswith(REPORT):
            for label, f in vars(module).items():
                own = isinstance(f, types.FunctionType) and f.__module__ == name and not label.startswith("_")
                if own and (not name.startswith(COMMON) or "launch" in f.__code__.co_names):
                    found[label] = f
    return found


# Called by other launchers only, with tensors that those have made: they may refuse a layout.
INNER = {
    "attend_pairs", "causal_gradients", "choose_near", "decode_step", "evaluate_levels", "further_rounds", "halves",
    "join_levels", "key_gradients", "leaf_backward", "leaf_into", "level_sum", "muse_backward", "muse_gradients",
    "near_gradients", "offsets_of_chunks", "query_gradients", "scatter", "summary_gradients", "runs_attend",
    "runs_key_grad", "runs_means", "runs_query_grad", "runs_summaries", "runs_summary_grad",
}  # fmt: skip
WRITING = {"restart_empty"}  # what they read: not where several numbers are one
# Equal places in an order are no clustering: two members are written to one place, and on a GPU either comes last.
PLACING = {"merge_levels"}
GRADED = {
    "centroid_field",
    "covariances",
    "leaf",
    "member_means",
    "muse",
    "muse_around",
    "muse_causal",
    "muse_merged",
    "runs_muse",
}
EXPECTED = {}  # what every launcher gives for contiguous tensors
FUNCTIONS = functions()
STARTING = sorted(name for name, f in FUNCTIONS.items() if "launch" in f.__code__.co_names)


def small():
    """One call of everything: the benchmark's own cases, causal attention, a decoding step."""
    from multipole_lab.bench.kernels import cases as kernel_cases, cases_runs as kernel_cases_runs
    from multipole_lab.decoding.settings import Settings
    from multipole_lab.decoding.store.hierarchy import Hierarchy

    g = torch.Generator().manual_seed(0)
    B, Hq, Hk, N, D = 2, 2, 1, 12, 16
    q, k, v = (torch.randn(B, h, N, D, generator=g).to(DEVICE) for h in (Hq, Hk, Hk))
    p = Problem(B, Hq, Hk, N, N, D, clusters=2, near=1, rank=2, dtype=torch.float32)
    s = kernel_cases.setting(p, q, k, v)
    clustering, whole = kernel_cases.clustering_cases(s), kernel_cases.muse_cases(s)
    cases = clustering, whole, kernel_cases_runs.runs_cases(s)
    for case in (case for some in cases for case in some):
        case.call(*case.inputs)
    x = [x.clone().requires_grad_() for x in (q, k, v)]
    ml.MuSe(clusters=2, leaf=8, backend="triton")(*x, causal=True).sum().backward()
    ml.MuSe(clusters=2, leaf=8, backend="triton")(q, k, v, causal=True)
    ml.MuSe(clusters=2, near=1, near_for="query", backend="triton")(q, k, v)
    ml.MuSe(clusters=2, leaf=4, levels="merged", near=1, backend="triton")(*x, causal=True).sum().backward()
    ml.MuSe(clusters=2, leaf=6, points="earlier", near=1, backend="triton")(*x, causal=True).sum().backward()
    ml.Centroid(clusters=2, backend="triton")(*x).sum().backward()
    ml.MuSe(clusters=2, order="dipole", dipole_rank=2, backend="triton")(*x).sum().backward()
    with pytest.MonkeyPatch.context() as patch:  # what a rank computes, without others
        patch.setattr(context, "Channel", Alone)
        context.ContextParallel(ml.MuSe(clusters=2, near=1, backend="triton"))(*x).sum().backward()
    k, v = (torch.randn(B, Hk, 60, D, generator=g).to(DEVICE) for _ in "kv")
    for levels in (1, 2):
        hierarchy = Hierarchy(Settings(levels=levels, budget=0.2, sinks=2, recent=4, fraction=0.25))
        hierarchy.append(k, v)
        hierarchy.join()
        FUNCTIONS["decode_step"].__globals__["decode_step"](
            q[:, :, -1:], hierarchy.state(), scale=0.25, budget=6
        )


@pytest.fixture(scope="module")
def calls():
    """The arguments of one call of every function, before it changed them."""
    noted = {}

    def noting(name, f):
        @functools.wraps(f)
        def call(*args, **kwargs):
            graded = any(x.requires_grad for x in tensors_in((args, kwargs)))
            if name not in noted or graded > noted[name][2]:
                keep = mapped((args, kwargs), lambda x: x.detach().clone().requires_grad_(x.requires_grad))
                noted[name] = (*keep, graded)
            return f(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        wrapped = {f: noting(name, f) for name, f in FUNCTIONS.items()}
        for name, module in list(sys.modules.items()):
            if name.startswith("multipole_lab.kernels."):
                for label, f in list(vars(module).items()):
                    if isinstance(f, types.FunctionType) and f in wrapped:
                        patch.setattr(module, label, wrapped[f])
        small()
    return noted


def results(f, args, kwargs, upstream=lambda x: x):
    """What comes back (what is written in place, where nothing does) and the gradients, all contiguous."""
    returned = f(*args, **kwargs)
    got = list(tensors_in((args, kwargs) if returned is None else returned))
    outputs = [x for x in got if x.requires_grad and returned is not None]
    if outputs:
        g = torch.Generator().manual_seed(1)
        given = [upstream(torch.randn(x.shape, generator=g).to(x)) for x in outputs]
        leaves = [x for x in tensors_in((args, kwargs)) if x.requires_grad]
        got += torch.autograd.grad(outputs, leaves, given, allow_unused=True)
    return [x if x is None else x.detach().clone(memory_format=torch.contiguous_format) for x in got]


def laying(layouts):
    """Lay one tensor after another by the next of some layouts."""
    turn = itertools.cycle(layouts.values())
    return lambda x: next(turn)(x.detach().clone()).requires_grad_(x.requires_grad)


def on_meta(lay):
    """Lay tensors without numbers: what a kernel that did not run left behind is no index."""
    return lambda x: lay(x.detach().to("meta").requires_grad_(x.requires_grad))


def contiguous(x):
    return x.detach().clone(memory_format=torch.contiguous_format).requires_grad_(x.requires_grad)


def test_every_function_that_starts_a_kernel_is_called(calls):
    assert set(STARTING) - set(calls) == set()
    assert GRADED - {name for name, call in calls.items() if call[2]} == set()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_kernel_is_told_every_layout_or_the_launcher_says_no(calls, layout):
    """No kernel runs: `launch` looks at what each would be given, and raises where strides are missing."""
    refused = set()
    for name, (args, kwargs, _) in calls.items():
        if layout in BROADCAST and name in WRITING:
            continue
        try:
            with launch.recording(launch.Target(90, 227)):
                results(
                    FUNCTIONS[name],
                    *mapped((args, kwargs), on_meta(laying({layout: LAYOUTS[layout]}))),
                    LAYOUTS[layout],
                )
        except ValueError as error:
            if "stride" not in str(error):
                raise
            refused.add(name)
    assert refused <= INNER, "these are called from outside"


@pytest.mark.parametrize("first", [0, 3])
def test_every_launcher_gives_the_same_numbers(calls, first, poisoned):
    """Every tensor in another layout than the one before it."""
    names = [*SAME][first:] + [*SAME][:first]
    layouts = {name: SAME[name] for name in names}
    for name in sorted(calls.keys() - INNER):
        args, kwargs, _ = calls[name]
        got = results(FUNCTIONS[name], *mapped((args, kwargs), laying(layouts)), SAME[names[first]])
        if name not in EXPECTED:
            EXPECTED[name] = results(FUNCTIONS[name], *mapped((args, kwargs), contiguous))
        compare(name, got, EXPECTED[name])


def test_a_stride_of_zero_gives_the_same_numbers(calls, poisoned):
    for name in sorted(calls.keys() - INNER - WRITING - PLACING):
        args, kwargs, _ = calls[name]
        laid = mapped((args, kwargs), laying(BROADCAST))
        upstream = BROADCAST["position"]
        expected = results(
            FUNCTIONS[name], *mapped(laid, contiguous), lambda x, f=upstream: f(x).contiguous()
        )
        compare(name, results(FUNCTIONS[name], *laid, upstream), expected)


@pytest.mark.parametrize("name", sorted(GRADED))
def test_one_upstream_gradient_may_be_missing_and_the_other_one_number(calls, name):
    args, kwargs, _ = calls[name]
    leaves = [x for x in tensors_in((args, kwargs)) if x.requires_grad]
    for out in (x for x in tensors_in(FUNCTIONS[name](*args, **kwargs)) if x.requires_grad):
        got = torch.autograd.grad(out.sum(), leaves, allow_unused=True, retain_graph=True)
        expected = torch.autograd.grad(
            out, leaves, torch.ones_like(out), allow_unused=True, retain_graph=True
        )
        compare(name, got, expected)


def compare(name, got, expected):
    for one, other in zip(got, expected, strict=True):
        if one is not None or other is not None:
            torch.testing.assert_close(
                one, other, rtol=1e-5, atol=1e-6, equal_nan=True, msg=lambda text: f"{name}: {text}"
            )


def test_a_kernel_that_is_not_told_a_stride_is_not_started():
    x = torch.zeros(2, 3, 4, device=DEVICE)
    kernel = types.SimpleNamespace(arg_names=["x", "stride"])
    with launch.recording(launch.Target(90, 227)) as launches:
        launch.launch(kernel, (1,), x, 12, tile=None)
        launch.launch(kernel, (1,), x[:, :2], 12, tile=None)
        launch.launch(kernel, (1,), x[:1].expand(5, 3, 4), 0, tile=None)
        assert len(launches) == 3
        for wrong, numbers in ((x.mT, (12, 1, 4)), (x[:, :2], (8,)), (x[..., ::2], (12, 4, 2))):
            with pytest.raises(ValueError, match=r"is given x of shape .* but not the stride of dimension"):
                launch.launch(kernel, (1,), wrong, *numbers, tile=None)
