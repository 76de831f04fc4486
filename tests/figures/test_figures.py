"""Figures are judged by their data: what is drawn where, and what the title claims."""

import re

import numpy as np
import plotly.graph_objects as go
import pytest

from multipole_lab import figures
from multipole_lab.figures.common import theme
from multipole_lab.figures.error import WorstToken
from multipole_lab.lessons import toy
from multipole_lab.lessons.projection import neighbour_colours, principal_axes


def cluster_arguments(dims=2, n=60, clusters=6):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % clusters
    return {
        "points": rng.standard_normal((n, dims)),
        "labels": labels,
        "tokens": [" a<b>\n"] * n,
        "counts": np.bincount(labels),
        "colours": np.arange(clusters),
        "limit": 15,
        "queries": rng.standard_normal((3, dims)),
        "query_counts": np.array([10, 20, 30]),
    }


@pytest.mark.parametrize("dims", [2, 3])
def test_clusters_draws_each_key_with_its_token_position_and_cluster(dims):
    arguments = cluster_arguments(dims)
    fig = figures.clusters(**arguments)
    keys, queries, bars = fig.data
    assert isinstance(keys, go.Scatter3d if dims == 3 else go.Scatter)
    np.testing.assert_array_equal(np.stack([keys.x, keys.y], 1), arguments["points"][:, :2])
    assert keys.hovertext[0].startswith("<b>␣a&lt;b&gt;⏎</b>")
    assert keys.hovertext[7].endswith("position 7<br>in cluster 2, with 10 keys")
    assert len(queries.x) == 3
    assert sum(bars.y) == 60
    assert fig.layout.shapes[0].y0 == 15
    assert "60 keys become 6 clusters of about 10" in fig.layout.title.text


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (2.0, "2.0 times faster than it"),
        (0.5, "2.0 times slower than it"),
        (0.97, "as fast as it"),
        (1500, "1,500 times faster than it"),
    ],
)
def test_what_is_as_fast_is_not_said_to_be_1_0_times_faster(ratio, words):
    assert theme.pace(ratio, "it") == words
    assert words.startswith(theme.pace(ratio))


def test_spotlight_leaves_one_cluster_in_colour_and_names_its_tokens():
    fig = figures.clusters(**cluster_arguments(), spotlight=2)
    shade = np.asarray(fig.data[0].marker.color)
    assert set(shade[np.arange(60) % 6 == 2]) == {2}
    assert set(shade[np.arange(60) % 6 != 2]) == {len(theme.MANY)}
    assert "Cluster 3: 10 keys, 1 different token" in fig.layout.title.text


def test_a_cluster_has_one_number_wherever_it_is_named_and_one_key_is_a_key():
    labels = np.repeat([0, 1, 2], [1, 7, 2])
    arguments = cluster_arguments(n=10, clusters=3) | {"labels": labels, "counts": np.bincount(labels)}
    fig = figures.clusters(**arguments, spotlight=0)
    assert "Cluster 3: 1 key, 1 different token" in fig.layout.title.text
    keys, _, bars = fig.data
    named = [keys.hovertext[i].rpartition("<br>")[2] for i in (0, 1, 9)]
    assert named == ["in cluster 3, with 1 key", "in cluster 1, with 7 keys", "in cluster 2, with 2 keys"]
    assert (list(bars.y), list(bars.customdata)) == ([7, 2, 1], ["7 keys", "2 keys", "1 key"])
    assert [i for i, colour in enumerate(bars.marker.color) if colour in theme.MANY] == [2]


def test_clusters_refuses_other_than_two_or_three_axes():
    with pytest.raises(ValueError, match="2 or 3 columns, got 4"):
        figures.clusters(**cluster_arguments(4))


def expansion_figure(p, **choices):
    sources = toy.make_toy()
    axis, points = toy.grid(steps=21)
    square = lambda field: field.potential.reshape(21, 21)  # noqa: E731
    return figures.expansion(
        axis,
        square(toy.truth(sources, points)),
        square(toy.expand(sources, np.zeros(2), points, "monopole")),
        square(toy.expand(sources, p, points, "monopole")),
        keys=sources.keys,
        labels=sources.labels,
        weights=toy.weights(sources, p),
        centroids=toy.moments(sources, np.zeros(2)).key,
        tilted_centroids=toy.moments(sources, p).key,
        p=p,
        query=np.array([1.0, 1.0]),
        at_query=(1.0, 2.0, 3.0),
        **choices,
    )


def test_expansion_draws_three_fields_and_two_errors():
    fig = expansion_figure(np.array([1.2, 0.9]))
    truth, origin, tilted, error_origin, error_tilted = fig.data[:5]
    np.testing.assert_allclose(error_origin.z, np.abs(origin.z - truth.z))
    np.testing.assert_allclose(error_tilted.z, np.abs(tilted.z - truth.z))
    assert (
        error_origin.z[10, 10] < 1e-12
    )  # the middle of the grid is the origin, where that expansion is exact
    assert "times more accurate" in fig.layout.title.text
    assert "exact 1.00, origin 2.00, p 3.00" in fig.layout.title.text.replace("<br>", " ")


def test_expansion_does_not_praise_an_expansion_point_at_the_origin():
    assert "move it" in expansion_figure(np.zeros(2)).layout.title.text


def test_expansion_has_square_axes_that_zoom_as_one_and_says_which_is_nearer():
    fig = expansion_figure(np.array([1.2, 0.9]))
    queries = [1, 2, 3, 5, 6, 7]  # the fourth square shows keys
    for number in range(1, 8):
        across, up = fig.layout[f"xaxis{number}"], fig.layout[f"yaxis{number}"]
        # An axis that matches another has its scale; plotly.js would ignore one of its own, and warn at every picture.
        assert up.scaleanchor == {1: "x", 4: "x4"}.get(number)
        assert (across.matches, up.matches) == (("x", "y") if number in queries[1:] else (None, None))
    nearer = next(trace for trace in fig.data if trace.name == "which is nearer")
    assert nearer.z[10, 10] == -2  # the origin, where its expansion is exact
    assert nearer.z[13, 14] == 2  # where p is
    ring = fig.layout.shapes[0]
    assert ((ring.x0 + ring.x1) / 2, (ring.y0 + ring.y1) / 2) == pytest.approx((1.2, 0.9))


def test_error_draws_a_dot_a_head_the_line_and_the_worst_words():
    worst = [WorstToken(7, 2.0, "before ", " <b>", "\nafter"), WorstToken(3, 0.5, "a", "\n", "b")]
    arguments = {"positions": np.arange(0, 80, 10), "by_position": np.full(8, 0.1), "tokens": ["x"] * 8}
    fig = figures.error(np.array([0.1, 0.02, 0.3]), 1, **arguments, worst=worst)
    dots, line, shares, words = fig.data
    assert list(dots.y) == [0.1, 0.02, 0.3]
    assert list(dots.text) == ["10%", "2.0%", "30%"]
    assert dots.marker.color[1] != dots.marker.color[0]
    assert list(line.x) == list(range(0, 80, 10))
    assert list(shares.text) == ["200%", "50%"]
    assert [re.sub("<b .*?>", "<b>", text) for text in words.text] == [
        "…before <b> &lt;b&gt;</b>⏎after…",
        "…a<b>⏎</b>b…",
    ]
    assert "token 7" in words.customdata[0]
    assert "Mean error 14%" in fig.layout.title.text
    waiting = figures.error(np.array([np.nan, 0.02, np.nan]), 1, **arguments)
    assert "measuring the other heads" in waiting.layout.title.text


@pytest.mark.parametrize(("approx", "claim"), [(5.0, "4.0 times faster"), (40.0, "2.0 times slower")])
def test_speed_states_the_ratio_at_the_longest_text_and_names_the_machine(approx, claim):
    fig = figures.speed(np.array([256, 512]), np.array([5.0, 20.0]), np.array([4.0, approx]),
                        np.array([0.1, 0.2]), machine="a test machine", name="MuSe")  # fmt: skip
    text = fig.layout.title.text.replace("<br>", " ")
    assert claim in text
    assert "error 0.20" in text
    assert "a test machine" in text
    assert list(fig.data[0].y) == [5, 20]
    assert list(fig.data[2].y) == [0.1, 0.2]
    assert fig.data[2].yaxis == "y2"
    assert fig.layout.yaxis2.domain[1] < fig.layout.yaxis.domain[0]  # two plots, one below the other


@pytest.mark.parametrize(
    ("approx", "claim"),
    [([10, 20, 20], "the lines cross near 720 tokens"), ([1, 2, 3], None), ([10, 40, 200], None)],
)
def test_speed_says_where_the_lines_cross_for_good(approx, claim):
    """On straight lines of logarithmic axes: between twice as slow and twice as fast, half way."""
    exact = np.array([5.0, 10.0, 40.0])
    fig = figures.speed(
        np.array([256, 512, 1024]), exact, np.array(approx, float), exact / 100, "a test machine"
    )
    text = fig.layout.title.text.replace("<br>", " ")
    assert (claim in text) if claim else ("cross" not in text)


def test_speed_draws_the_middle_half_of_the_turns():
    exact, approx = np.array([5.0, 20.0]), np.array([4.0, 8.0])
    spread = np.array([[exact - 1, exact + 2], [approx, approx + 3]])
    fig = figures.speed(np.array([256, 512]), exact, approx, exact, "a test machine", spread=spread)
    for trace, below, above in zip(fig.data[:2], (1, 0), (2, 3), strict=True):
        assert list(trace.error_y.arrayminus) == [below, below]
        assert list(trace.error_y.array) == [above, above]


def test_speed_shows_no_error_where_tokens_were_drawn_again_and_says_so():
    lengths, exact = np.array([256, 512, 1024]), np.array([5.0, 20.0, 80.0])
    fig = figures.speed(
        lengths, exact, exact / 2, np.array([0.1, 0.2, np.nan]), "a test machine", name="MuSe"
    )
    text = fig.layout.title.text.replace("<br>", " ")
    assert "At 1,024 tokens MuSe is 2.0 times faster than exact, with error 0.20 at 512" in text
    assert "drawn again: no error is shown there" in text
    assert np.isnan(fig.data[2].y[2])


def test_speed_draws_what_the_gpu_alone_takes():
    lengths, exact = np.array([256, 512]), np.array([5.0, 20.0])
    alone = np.array([[2.0, 12.0], [4.0, 3.0]])
    fig = figures.speed(lengths, exact, exact, exact, "a test machine", name="MuSe", device_ms=alone)
    assert [list(trace.y) for trace in fig.data if trace.line.dash == "dash"] == alone.tolist()
    assert "The GPU alone, in a CUDA graph: 4.0 times faster." in fig.layout.title.text.replace("<br>", " ")
    unknown = figures.speed(lengths, exact, exact, exact, "a test machine", device_ms=alone * np.nan)
    assert not [trace for trace in unknown.data if trace.line.dash == "dash"]


def test_speed_draws_before_anything_is_measured():
    nothing = np.array([])
    fig = figures.speed(nothing, nothing, nothing, nothing, machine="a test machine")
    assert "Measuring" in fig.layout.title.text
    some = np.array([256.0])
    fig = figures.speed(some, some, some, some, machine="a test machine", measuring=True)
    assert "Measuring" in fig.layout.title.text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.04321, "0.043"),
        (1.25, "1.2"),
        (12.3, "12"),
        (1500, "1,500"),
        (2e-5, "0.00002"),
        (0.00099, "0.00099"),
        (4e-15, "under 0.000001"),
        (99.7, "100"),
        (0.1, "0.10"),
    ],
)
def test_numbers_are_written_as_in_a_sentence(value, words):
    assert theme.number(value) == words


@pytest.mark.parametrize("colour", [theme.TEXT, *theme.MANY])
def test_every_colour_stands_out_on_both_themes(colour):
    def luminance(hexadecimal):
        channels = [int(hexadecimal[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    wanted = 4.2 if colour == theme.TEXT else 2.0
    for background in ("#ffffff", "#111111"):
        dark, light = sorted((luminance(colour), luminance(background)))
        assert (light + 0.05) / (dark + 0.05) > wanted


def test_principal_axes_project_what_they_were_fitted_to():
    x = np.random.default_rng(0).standard_normal((50, 8)) * np.arange(8, 0, -1)
    axes = principal_axes(x)
    np.testing.assert_allclose(axes.project(x), axes.points, atol=1e-12)
    np.testing.assert_allclose(axes.axes @ axes.axes.T, np.eye(3), atol=1e-12)
    assert (np.diff(axes.explained) <= 0).all()
    with pytest.raises(ValueError, match="got 2 x 8"):
        principal_axes(x[:2])


def test_neighbours_get_different_colours():
    line = np.stack([np.arange(40.0), np.zeros(40)], axis=1)
    colours = neighbour_colours(line)
    assert (np.diff(colours) != 0).all()
    assert set(colours) == set(range(16))
    assert sorted(neighbour_colours(line[:16])) == list(range(16))  # 16 clusters are told apart


def test_many_colours_differ_for_readers_who_do_not_see_red_or_green_too():
    rgb = np.array([[int(one[i : i + 2], 16) / 255 for i in (1, 3, 5)] for one in theme.MANY])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    # Machado and others 2009, deuteranopia and protanopia; then Ottosson's Oklab, where 0.02 is just to be seen.
    deutan = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    protan = [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
    lms = [[0.41222, 0.53633, 0.05145], [0.2119, 0.6807, 0.1074], [0.0883, 0.28172, 0.62998]]
    lab = [[0.21045, 0.79362, -0.00407], [1.978, -2.42859, 0.45059], [0.0259, 0.78277, -0.80868]]
    for seen, least in ((np.eye(3), 0.13), (deutan, 0.06), (protan, 0.06)):
        points = np.cbrt(np.clip(linear @ np.transpose(seen), 0, 1) @ np.transpose(lms)) @ np.transpose(lab)
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(len(points))
        assert apart.min() > least
