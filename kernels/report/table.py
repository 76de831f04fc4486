"""The launchers of the compile report: for each an example to compile and what it moves and does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import (
    cases_clustering as clustering,
    cases_decode as decode,
    cases_exact as exact,
    cases_muse as muse,
    cases_runs as runs,
)
from .problem import Problem


@dataclass(frozen=True)
class Entry:
    """One launcher of the report.

    name : the launcher.
    example : runs the launcher on the `meta` tensors of a problem; called inside `launch.recording`.
    cost : bytes moved through device memory and operations done, by the formulas in the launcher's docstring.
    """

    name: str
    example: Callable[[Problem], object]
    cost: Callable[[Problem], tuple[float, float]]


ENTRIES = (
    Entry("assign", clustering.assign_example, clustering.assign_cost),
    Entry("capped_few", clustering.capped_few_example, clustering.capped_few_cost),
    Entry("capped_rounds", clustering.capped_rounds_example, clustering.capped_rounds_cost),
    Entry("cluster_means", clustering.cluster_means_example, clustering.cluster_means_cost),
    Entry("covariances", clustering.covariances_example, clustering.covariances_cost),
    Entry("decode_attend", decode.decode_attend_example, decode.decode_attend_cost),
    Entry("decode_lookup", decode.decode_lookup_example, decode.decode_lookup_cost),
    Entry("decode_merge", decode.decode_merge_example, decode.decode_merge_cost),
    Entry("decode_select", decode.decode_select_example, decode.decode_select_cost),
    Entry("sort_by_label", clustering.sort_example, clustering.sort_cost),
    Entry("lloyd", clustering.lloyd_example, clustering.lloyd_cost),
    Entry("short_kmeans", clustering.short_kmeans_example, clustering.short_kmeans_cost),
    Entry("merge_levels", clustering.merge_levels_example, clustering.merge_levels_cost),
    Entry("leaf", exact.leaf_example, exact.leaf_cost),
    Entry("centroid_field", exact.centroid_field_example, exact.centroid_field_cost),
    Entry("dipole", muse.dipole_example, muse.dipole_cost),
    Entry("evaluate", muse.evaluate_example, muse.evaluate_cost),
    Entry("evaluate_by_query", muse.by_query_example, muse.by_query_cost),
    Entry("select_near", muse.select_near_example, muse.select_near_cost),
    Entry("summarise", muse.summarise_example, muse.summarise_cost),
    Entry("muse", muse.muse_example, muse.muse_cost),
    Entry("muse_dipole", partial(muse.muse_example, order="dipole"), partial(muse.muse_cost, order="dipole")),
    Entry("muse_causal", muse.muse_causal_example, muse.muse_causal_cost),
    Entry("muse_merged", muse.muse_merged_example, muse.muse_causal_cost),
    Entry("runs_full", runs.runs_full_example, runs.runs_full_cost),
    Entry("runs_causal", runs.runs_causal_example, runs.runs_causal_cost),
)


def cost_of(name: str, problem: Problem) -> tuple[float, float]:
    """Bytes and operations of a launcher by its name."""
    return next(entry for entry in ENTRIES if entry.name == name).cost(problem)
