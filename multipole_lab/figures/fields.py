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
LOW, HIGH = -3, 1  # the powers of ten that the colours tell apart


@suggesting
def fields(
    axis: Float[np.ndarray, " S"],
    errors: Mapping[str, Float[np.ndarray, " SS"]],
    places: Float[np.ndarray, "N 2"],
    charges: Float[np.ndarray, " N"],
    finding: str = "",
    reading: str = "",
) -> go.Figure:
    """Draw the size of each error on a square, in one scale of powers of ten.

    How to read it: a step of the colour bar is a factor of ten. Where the picture turns dark the approximation is good;
    the better one is dark closer to the charges, which are the dots (red: positive, blue: negative).

    Parameters
    ----------
    axis : [S], both coordinates of the square. errors : name -> [S * S], row by row.
    places : [N, 2] of the charges. charges : [N], whose sign is drawn.
    finding, reading : the title, and the smaller line below it.

    Raises
    ------
    ValueError : no errors, or places and charges of different lengths.
    """
    if not errors:
        raise ValueError("errors is empty; at least one is needed")
    check_equally_many(places=places, charges=charges)
    figure = make_subplots(
        1, len(errors), subplot_titles=tuple(errors), horizontal_spacing=0.08, shared_yaxes=True
    )
    marker = {
        "color": np.where(np.asarray(charges) > 0, theme.VERMILION, theme.SKY),
        "size": 6,
        "line": {"width": 0.8, "color": "#ffffff"},  # on the darkest colours, too
    }
    for column, error in enumerate(errors.values(), start=1):
        powers = np.log10(np.abs(error) + FLOOR).reshape(len(axis), -1)
        figure.add_heatmap(
            x=axis, y=axis, z=powers, coloraxis="coloraxis", customdata=10**powers, row=1, col=column,
            hovertemplate="(%{x:,.1f}, %{y:,.1f}): error %{customdata:.2g}<extra></extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=places[:, 0], y=places[:, 1], mode="markers", marker=marker, showlegend=False, row=1, col=column,
            hovertemplate="a charge at (%{x:,.1f}, %{y:,.1f})<extra></extra>",
        )  # fmt: skip
    powers = range(LOW, HIGH + 1)
    bar = {"title": "error", "tickvals": list(powers), "ticktext": [f"{10.0**power:g}" for power in powers]}
    figure.update_xaxes(title_text="first coordinate", constrain="domain")
    figure.update_yaxes(constraintoward="top")  # below its name, also where it is small
    figure.update_yaxes(title_text="second coordinate", col=1)
    for column in range(1, len(errors) + 1):
        figure.update_yaxes(scaleanchor=f"x{column}" if column > 1 else "x", constrain="domain", col=column)
    top = theme.heading_height(finding, reading) + 34 if finding else 40
    scale = {"colorscale": theme.SEQUENTIAL, "cmin": LOW, "cmax": HIGH, "colorbar": {"thickness": 12, **bar}}
    return figure.update_layout(
        template=theme.TEMPLATE, height=top + 320, coloraxis=scale, margin={"t": top},
        title=theme.title(finding, reading) if finding else None,
    )  # fmt: skip
