"""A sweep: its grid, its rows, the kept file, the cost model and the clusters it recommends."""

import json
from dataclasses import replace

import numpy as np
import pandas
import pytest
from random_sample import random_sample

import multipole_lab as ml
from multipole_lab import cli, figures
from multipole_lab.search import fit_cost_model, recommended
from multipole_lab.search.cost_model import counts
from multipole_lab.search.grid_sweep import front
from multipole_lab.search.space import settings, suggest_methods, that_fit


@pytest.fixture(scope="module")
def sample():
    return random_sample()


@pytest.fixture(scope="module")
def table(sample):
    return ml.sweep(
        sample, {"clusters": (4, 8, 16), "near": (0, 2)}, lengths=[96, 320], repeats=1, device="cpu"
    )


def test_a_row_for_every_setting_and_length(table):
    assert len(table) == 12
    assert set(table["length"]) == {96, 320}
    assert table["method"].iloc[0] == "MuSe(clusters=4)"
    assert table["code"].iloc[1] == "ml.MuSe(clusters=4, near=2)"
    assert (table[["ms", "exact_ms", "speedup", "operations"]] > 0).all(axis=None)


def test_lengths_beyond_the_sample_are_labelled(table):
    assert dict(zip(table["length"], table["source"], strict=True)) == {
        96: "captured",
        320: "resampled from 160 captured tokens",
    }


def test_the_error_is_that_of_compare(sample, table):
    method = ml.MuSe(clusters=8, near=2)
    rows = ml.compare(sample, [method], tokens=96, repeats=1)
    row = table[(table["length"] == 96) & (table["method"] == "MuSe(clusters=8, near=2)")].iloc[0]
    assert row["rse"] == pytest.approx(rows["rse"].mean(), rel=1e-4)
    assert row["worst_layer"] == pytest.approx(rows["rse"].max(), rel=1e-4)


def test_the_front_has_what_nothing_of_its_length_beats():
    rows = pandas.DataFrame(
        {"length": [1, 1, 1, 2], "ms": [2.0, 1.0, 3.0, 9.0], "rse": [0.1, 0.2, 0.15, 0.5]}
    )
    assert front(rows).tolist() == [True, True, False, True]


def test_causal_only_a_span_of_heads_and_other_methods(sample):
    methods = [ml.MuSe(clusters=8, leaf=32, near=1), ml.Window(size=40, sinks=1)]
    rows = ml.sweep(sample, methods, causal=True, groups=1, layers=[4], repeats=1)
    assert rows["heads"].tolist() == [2, 2]
    assert rows["near"].tolist()[0] == 1
    assert (rows["rse"] < 1).all()


def test_a_random_search_draws_as_often_as_it_is_told_and_the_same_again():
    grid = {"clusters": range(1, 10**9), "near": (0, 1)}
    first, again, other = (settings(grid, 5, seed) for seed in (0, 0, 1))
    assert len(first) == 5
    assert first == again != other


def test_the_grid_is_a_product_over_any_method():
    found = settings({"method": ["Centroid"], "clusters": [4, 8], "budget": [0, 16]})
    assert found == [ml.Centroid(clusters=c, budget=b) for c in (4, 8) for b in (0, 16)]


def test_equal_settings_and_those_that_approximate_nothing_are_left_out():
    methods = [
        ml.MuSe(clusters=8, leaf=64),
        ml.MuSe(clusters=8),
        ml.MuSe(clusters=200),
        ml.MuSe(clusters=4, near=4),
    ]
    assert that_fit(methods, 100, causal=False) == [ml.MuSe(clusters=8)]
    assert that_fit(methods, 100, causal=True) == [ml.MuSe(clusters=8, leaf=64)]


@pytest.mark.parametrize("causal", [False, True])
def test_what_is_suggested_fits_every_length(causal):
    for length in (128, 1000, 4096, 131072):
        found = suggest_methods(length, causal)
        assert 0 < len(found) <= 220
        assert found == that_fit(found, length, causal)


@pytest.mark.parametrize("usual", [1024, 4096])
def test_what_a_leaf_that_is_not_named_comes_to_is_suggested(usual):
    for length in (3000, 6000, 65_536):
        found = suggest_methods(length, True, lambda method: replace(method, leaf=usual))
        assert (ml.MuSe(clusters=64, near=4, sinks=4, leaf=usual) in found) == (usual < length)
        assert all(getattr(method, "leaf", 0) != "auto" for method in found)
        assert len(found) <= 240


def test_the_setting_recorded_on_a_gpu_is_suggested():
    for length in (16_384, 65_536):
        found = suggest_methods(length, causal=True)
        assert ml.MuSe(clusters=128, query_clusters=16, leaf=1024, partition="runs", sinks=4) in found


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({}, "grid is empty"),
        ([], "grid is empty"),
        ({"clusters": []}, r"grid\['clusters'\] is empty"),
        ({"clusters": 8}, "a list of values is needed"),
        ({"order": "dipole"}, "a list of values is needed"),
        ({"cluster": [8]}, "Did you mean 'clusters'"),
        ({"order": ["octopole"]}, "octopole"),
        ({"length": [64]}, r"lengths=\[...\]"),
        ({"clusters": [500]}, "no setting that approximates anything in 160 tokens"),
        ({"method": ["Nothing"], "size": [4]}, "there is no 'Nothing'"),
    ],
)
def test_a_wrong_grid_is_named(sample, grid, words):
    with pytest.raises(ValueError, match=words):
        ml.sweep(sample, grid)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lengths": []}, "lengths is empty"),
        ({"lengths": [200_000]}, "131,072"),
        ({"layers": [2]}, r"there are \[1, 4\]"),
        ({"repeats": 0}, "repeats is 0"),
        ({"draws": 0}, "draws is 0"),
    ],
)
def test_a_wrong_argument_is_named(sample, settings, words):
    with pytest.raises(ValueError, match=words):
        ml.sweep(sample, {"clusters": [4]}, **settings)


def test_a_sweep_that_was_stopped_continues_with_what_is_left(sample, tmp_path):
    grid, out = {"clusters": (4, 8), "near": (0, 1)}, tmp_path / "rows.jsonl"

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ml.sweep(sample, grid, repeats=1, out=out, progress=stop)
    kept = out.read_text().splitlines()
    assert len(kept) == 3  # a header and two rows
    out.write_text("\n".join(kept) + '\n{"id": "160", "meth')  # a kill in the middle of a line
    table = ml.sweep(sample, grid, repeats=1, out=out)
    lines = out.read_text().splitlines()
    assert lines[:3] == kept
    assert len(lines) == 5
    assert len(table) == 4
    assert table["ms"].iloc[0] == json.loads(kept[1])["ms"]
    again = ml.sweep(sample, grid, repeats=1, out=out)
    pandas.testing.assert_frame_equal(again, table)
    with pytest.raises(ValueError, match="other settings: layers"):
        ml.sweep(sample, grid, repeats=1, out=out, layers=[1])


def rows_with_prices(prices, causal=False):
    rows = []
    for length in (512, 1024, 4096):
        for clusters in (8, 32, 128):
            for near in (0, 2, 4):
                method = f"MuSe(clusters={clusters}, near={near}, leaf=128)"
                known = counts(ml.MuSe(clusters=clusters, near=near, leaf=128), length, causal)
                ms = sum(prices.get(name, 0) * x for name, x in known.items())
                rows.append({"method": method, "length": length, "causal": causal, "ms": ms})
    return pandas.DataFrame(rows)


@pytest.mark.parametrize("causal", [False, True])
def test_the_cost_model_finds_the_prices_that_made_the_times(causal):
    prices = {"call": 2.0, "tokens": 1e-3, "far": 3e-5, "near": 1e-5} | ({"leaf": 2e-5} if causal else {})
    model = fit_cost_model(rows_with_prices(prices, causal))
    for name in ("far", "near"):
        assert model.prices[name] == pytest.approx(prices[name], rel=1e-3)
    assert model.worst_error < 1e-4
    assert "far" in str(model)


def test_the_cheapest_clusters_are_those_of_least_predicted_time():
    model = fit_cost_model(rows_with_prices({"call": 2.0, "tokens": 1e-3, "far": 3e-5, "near": 1e-5}))
    best = model.cheapest_clusters(near=4, length=4096)
    around = [model.predict(ml.MuSe(clusters=c, near=4), 4096) for c in range(10, 300)]
    assert abs(10 + int(np.argmin(around)) - best) <= 1
    assert np.isnan(model.cheapest_clusters(near=0, length=4096))


def test_a_cost_model_needs_rows_of_muse(table):
    with pytest.raises(ValueError, match="at least 3"):
        fit_cost_model(table.head(2))
    with pytest.raises(ValueError, match="no column ms"):
        fit_cost_model(table.drop(columns="ms"))


def test_the_recommended_clusters_are_of_the_fastest_under_the_error():
    rows = pandas.DataFrame({
        "method": ["MuSe(clusters=4)", "MuSe(clusters=8)", "Window(size=4)", "MuSe(clusters=4)"],
        "length": [64, 64, 64, 128], "causal": False, "source": "captured", "clusters": [4, 8, None, 4],
        "near": [0, 0, None, 0], "rse": [0.1, 0.01, 0.0, 0.1], "ms": [1.0, 2.0, 0.5, 1.0], "speedup": 1.0,
    })  # fmt: skip
    best = recommended(rows, 0.02)
    assert best["method"].iloc[0] == "MuSe(clusters=8)"
    assert best.loc[1, ["method", "clusters", "ms"]].isna().all()
    assert recommended(rows, 0.2)["clusters"].tolist() == [4, 4]


def test_the_figure_has_every_setting_a_front_and_the_model(table):
    model = fit_cost_model(table)
    fig = figures.sweep(
        table["ms"].to_numpy(), table["rse"].to_numpy(), table["length"].to_numpy(), list(table["method"]), 0.5, "m",
        predicted_ms=model.table["predicted_ms"],
    )  # fmt: skip
    marks = {trace.name: len(trace.x) for trace in fig.data}
    assert marks["96 tokens"] == marks["320 tokens"] == 6
    assert marks["model, 96 tokens"] == 6
    assert "At 320 tokens" in fig.layout.title.text
    nothing = np.empty(0)
    assert (
        "Nothing has been measured"
        in figures.sweep(nothing, nothing, nothing, [], 0.1, "m").layout.title.text
    )


def test_the_command_prints_and_writes(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sample.save(tmp_path / "mine")
    files = ["--json", "out/sweep.json", "--html", "out/sweep.html"]
    command = [
        "sweep",
        "--sample",
        "mine.safetensors",
        "--clusters",
        "4",
        "8",
        "16",
        "--repeats",
        "1",
        *files,
    ]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "Cost model:\nms =" in printed
    assert "MuSe(clusters=16)" in printed
    record = json.loads((tmp_path / "out/sweep.json").read_text())
    assert len(record["rows"]) == len(record["cost_model"]["residuals"]) == 3
    assert "relative squared error" in (tmp_path / "out/sweep.html").read_text()
    assert cli.main(command) == 0
    assert "continuing" in capsys.readouterr().err
    assert cli.main([*command, "--method", "MuSe()"]) == 1
    assert "not both" in capsys.readouterr().err
    assert cli.main(["sweep", "--sample", "none"]) == 1
    assert "no sample 'none'" in capsys.readouterr().err
