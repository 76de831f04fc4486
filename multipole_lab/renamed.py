"""Old names of modules, of what is in them and of values, for one version: each warns and names the new one."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType

from multipole_lab.suggesting import no_attribute

# Old package: {new package: its modules, as `old` or `old=new`}. Names are below `multipole_lab`.
FOLDERS = {
    "analysis": {
        "measure": (
            "timing graphs precision references exact_sides inputs errors lengths heads rotation=cold_inputs "
            "roofline operation_counts attention_mass comparing=comparison workload"
        ),
        "": "measured=environment table threads method_text",
        "search": (
            "candidates search_space=space sweeping=grid_sweep tuning=tuner tuned=tuner_result "
            "cost_model sweep_command tune_command rows"
        ),
        "lessons": "toy block_errors decode_trace projection",
        "bench": (
            "bench_command=command bench_record=record recorded bench_attention=attention "
            "bench_kmeans=kmeans bench_memory=memory bench_sparsity=sparsity"
        ),
        "bench.kernels": (
            "bench_kernels=command kernel_cases=cases kernel_cases_decode=cases_decode "
            "kernel_cases_spatial=cases_runs kernel_oracle=oracle kernel_work=work"
        ),
    },
    "decoding": {
        "bench.decode": "bench_decode=cpu bench_decode_gpu=gpu dense_sides growth problems baselines",
        "decoding.store": "storage levels block=blocks hierarchy metric rope padding state",
        "decoding.step": "choice=opening balance trace kernel=backend",
        "interface": "handle",
    },
    "parallel": {
        "bench": "bench_parallel=parallel",
    },
    "models": {
        "interface": "interface=functions masks refusing",
        "models.samples": "sample capturing capture_checks capture_command tensor_file provenance",
    },
    "course": {
        "course.questions": "a1 a2 a3 a4 a5 question compare forbidden checking marks",
        "course.grading": "batch notebook release report command",
        "course.sandbox": "session student wire zygote=fork_server",
    },
    "attention": {
        "attention.calls": "backend checks opaque padding recompute transforms",
        "attention.clusters": "partition slots",
    },
    "figures": {
        "figures.common": "browser png theme",
        "evaluation": "evaluation=figures",
    },
    "panels": {
        "panels.common": "base controls leaving needed porter sampled shown style sync timed",
    },
    "training": {
        "training.texts": "corpus preparing=preparation",
        "training": "comparing=comparison compared=comparison_result running=run",
    },
    "evaluation": {
        "evaluation": "running=run choice=options",
        "": "journal",
    },
    "clustering": {
        "clustering": "spatial=runs",
    },
    "kernels": {
        "kernels.common": (
            "launch derivatives tiles tile_table decode_tiles=tiles online lookup=members visible delta branches=graphs"
        ),
        "kernels.clustering": "assign lloyd centroids capped sort kmeans",
        "kernels.exact": "leaf leaf_backward",
        "kernels.muse": (
            "muse_backward=backward muse_causal=causal summarise summarise_backward evaluate "
            "evaluate_backward dipole basis_grad key_grad query_grad select"
        ),
        "kernels.runs": (
            "spatial=tree spatial_attend=attend spatial_muse=muse spatial_summaries=summaries "
            "spatial_summary_grad=summary_grad spatial_key_grad=key_grad spatial_query_grad=query_grad"
        ),
        "kernels.centroid": "replace",
        "kernels.decode": (
            "decode_attend=attend decode_cut=cut decode_logits=logits decode_lookup=lookup "
            "decode_merge=merge decode_near=near decode_replace=replace decode_select=select decode_work=work"
        ),
        "kernels.report": "registry=problem report_command=command probe",
    },
}

# Module: {old name in it: new name}.
NAMES = {
    "multipole_lab": {"spatial": "runs"},
    "multipole_lab.clustering": {"spatial": "runs"},
    "multipole_lab.clustering.runs": {"spatial": "runs"},
    "multipole_lab.course.sandbox.session": {"Zygote": "ForkServer"},
    "multipole_lab.search.tuner_result": {"Tuned": "TuningResult"},
}

# Argument: {old value: new value}.
VALUES = {
    "partition": {"spatial": "runs"},
    "kernel": {"spatial_full": "runs_full", "spatial_causal": "runs_causal"},  # in records
}


def modules() -> dict[str, str]:
    """The new name of every module that had another one, both in full."""
    found = {}
    for old, folders in FOLDERS.items():
        for new, names in folders.items():
            for before, _, after in (name.partition("=") for name in names.split()):
                found[f"multipole_lab.{old}.{before}"] = ".".join(
                    part for part in ("multipole_lab", new, after or before) if part
                )
    return found


def warn(old: str, new: str) -> None:
    """Say that a name has another one now."""
    warnings.warn(f"{old} is now {new}; the old name goes with the next version", FutureWarning, stacklevel=3)


def today(argument: str, came: object) -> object:
    """The value as it is named now, without a warning: for what is read from files."""
    return VALUES.get(argument, {}).get(came, came) if isinstance(came, str) else came


def value(argument: str, came: object) -> object:
    """The value as it is named now; an old name warns, at the line outside the library that gave it."""
    new = today(argument, came)
    if new is not came:
        level, frame = 2, sys._getframe(1)
        while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "multipole_lab":
            level, frame = level + 1, frame.f_back
        warnings.warn(
            f"{argument}={came!r} is now {argument}={new!r}; the old name goes with the next version",
            FutureWarning,
            stacklevel=level,
        )
    return new


def with_old_names(module: str, get: Callable[[str], object] | None = None) -> Callable[[str], object]:
    """``__getattr__`` of a module in which something has another name now: the old one gives it, with a warning.

    Parameters
    ----------
    module : its name, in ``NAMES``.
    get : its ``__getattr__`` for all other names.
    """

    def get_old(name: str) -> object:
        if name in NAMES[module]:
            new = NAMES[module][name]
            if not _is_first_question(sys._getframe(1)):
                warn(f"{module}.{name}", f"{module}.{new}")
            return getattr(sys.modules[module], new)
        if get is not None:
            return get(name)
        raise no_attribute(module, name, NAMES[module].values())

    return get_old


def _is_first_question(frame: FrameType) -> bool:
    """`from package import name` asks twice, first whether the name is there at all."""
    return frame.f_globals.get("__name__") == "importlib._bootstrap"


def old_names(package: str, *homes: str) -> Callable[[str], object]:
    """``__getattr__`` of a package whose names are elsewhere now: each is found there, with a warning.

    Parameters
    ----------
    package : its name; the name of a module until now, or of a package that goes with the next version.
    homes : the modules in which the names are.
    """

    def get(name: str) -> object:
        known = []
        if not name.startswith("__") and importlib.util.find_spec(f"{package}.{name}") is None:
            for home in homes:
                module = importlib.import_module(home)
                known += getattr(module, "__all__", ())
                value = getattr(module, name) if name in getattr(module, "__all__", vars(module)) else module
                if not isinstance(value, ModuleType):
                    if not _is_first_question(sys._getframe(1)):
                        warn(f"{package}.{name}", f"{home}.{name}")
                    return value
        raise no_attribute(package, name, known)

    return get


class RenamedModules(MetaPathFinder, Loader):
    """Finds modules by their old names: the module under the old name is the very one under the new."""

    def __init__(self) -> None:
        self.new = modules()

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """A spec where `name` is an old name, else None."""
        return ModuleSpec(name, self) if name in self.new else None

    def create_module(self, spec: ModuleSpec) -> object:
        """The module itself. The import system then writes the old spec into it, which `exec_module` undoes."""
        warn(spec.name, self.new[spec.name])
        module = importlib.import_module(self.new[spec.name])
        self.spec = module.__spec__
        return module

    def exec_module(self, module: object) -> None:
        """Nothing is left to execute."""
        module.__spec__ = self.spec


def install() -> None:
    """Let old names be found from now on."""
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.append(RenamedModules())
