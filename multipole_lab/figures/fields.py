"""A quantity on a plane, side by side for several approximations, and the charges that it comes from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from multipole_lab.suggesting import suggesting

from .common import theme
from .common.arrays import check_equally_many

FLOOR = 1e-6  # errors below it have one colour


@suggesting
def fields(
    axis: Float[np.ndarray, " S"],
    errors: Mapping[str, Float[np.ndarray, " SS"]],
    places: Float[np.ndarray, "N 2"],
    charges: Float[np.ndarray, " N"],
) -> go.Figure:
    """Draw the size of each error on a square, in one scale of powers of ten.

    How to read it: a step of the colour bar is a factor of ten. Where the picture turns dark the approximation is good;
    the better one is dark closer to the charges, which are the dots (red: positive, blue: negative).

    Parameters
    ----------
    axis : [S], both coordinates of the square. errors : name -> [S * S], row by row.
    places : [N, 2] of the charges. charges : [N], whose sign is drawn.

    Raises
    ------
    ValueError : no errors, or places and charges of different lengths.
    """
    if not errors:
        raise ValueError("errors is empty; at least one is needed")
    check_equally_many(places=places, charges=charges)
    figure = make_subplots(1, len(errors), subplot_titles=tuple(errors), horizontal_spacing=0.06)
    colours = np.where(np.asarray(charges) > 0, theme.VERMILION, theme.SKY)
    for column, error in enumerate(errors.values(), start=1):
        powers = np.log10(np.abs(error) + FLOOR).reshape(len(axis), -1)
        figure.add_heatmap(x=axis, y=axis, z=powers, coloraxis="coloraxis", row=1, col=column)
        figure.add_scatter(
            x=places[:, 0], y=places[:, 1], mode="markers", marker={"color": colours, "size": 5}, showlegend=False,
            row=1, col=column,
        )  # fmt: skip
    scale = {"colorscale": theme.SEQUENTIAL, "cmin": -3, "cmax": 1, "colorbar": {"title": "log₁₀"}}
    return figure.update_layout(template=theme.TEMPLATE, height=360, coloraxis=scale, margin={"t": 40})
