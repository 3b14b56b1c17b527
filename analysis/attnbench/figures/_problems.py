# SPDX-License-Identifier: Apache-2.0
"""Panels of bars, a panel a problem, with the same rows in all: what peers and options share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from attnbench import ratios
from attnbench.figures import style
from attnbench.variants import SIZES


def panels(
    data: pd.DataFrame, by: str, order: list[str], width_in: float,
    row: Callable[[Axes, int, pd.Series | None], None], line: float, unit: str,
    names: list[str] | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """The figure and its axes. ``order``: the values of the column ``by``, from below, called
    ``names`` if given; ``row(panel, at, case)`` draws one, None where the problem lacks it.
    ``line``: where a vertical line stands."""
    problem = ratios.problem_columns(data)
    keys = style.facet_keys(data, problem)
    keys.sort(key=lambda key: (key[-1] != "f32", key[-1], key[-2] != "dense", key[-2]))
    across = min(len(keys), 4 if width_in > 5 else 2)
    down = -(-len(keys) // across)
    labels, tall = style.row_labels(names or order, width_in)
    figure, axes = style.canvas(
        width_in, down, across, 0.45 + 0.15 * tall * len(order), sharey=True, sharex=True
    )
    for i, key in enumerate(keys):
        panel = axes[i // across][i % across]
        own = style.facet(data, problem, key).set_index(by, drop=False)
        for at, value in enumerate(order):
            row(panel, at, own.loc[value] if value in own.index else None)
        panel.axvline(line, color=style.FAINT, lw=0.8)
        panel.grid(axis="y", visible=False)
        panel.set_yticks(range(len(order)), labels)
        panel.tick_params(axis="y", length=0)
        panel.set_title(style.fitting(style.facet_title(problem, key), 0.8 * width_in / across))
        if i // across == down - 1:
            panel.set_xlabel(unit)
    for i in range(len(keys), across * down):
        axes[i // across][i % across].set_axis_off()
    return figure, axes


def columns(data: pd.DataFrame) -> list[str]:
    """What the table beside such a figure says of a problem."""
    problem = ratios.problem_columns(data)
    return [*(c for c in (*SIZES, "threads") if c in data and c not in problem), *problem]
