# SPDX-License-Identifier: Apache-2.0
"""Bars of speed over that of the best peer, a panel a problem: one vertical line is what to beat."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from attnbench import peers as measured
from attnbench.figures import style
from attnbench.variants import SIZES


def peers(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """Ours, each peer, and how near both come to the ceiling; None where there are no peers."""
    data = measured.over_best_peer(records, summary)
    if data.empty:
        return None
    data["mask"] = data["mask"].replace("", "dense")
    problem = measured.problem_columns(data)
    keys = style.facet_keys(data, problem)
    keys.sort(key=lambda key: (key[-1] != "f32", key[-1], key[-2] != "dense", key[-2]))
    across = min(len(keys), 4 if width_in > 5 else 2)
    down = -(-len(keys) // across)
    order = (
        data.groupby("kernel")["speed"].median().sort_values(na_position="first").index.to_list()
    )
    marks = style.marks(data.assign(label=data["kernel"]))
    figure, axes = style.canvas(
        width_in, down, across, 0.45 + 0.15 * len(order), sharey=True, sharex=True
    )
    for i, key in enumerate(keys):
        panel = axes[i // across][i % across]
        own = style.facet(data, problem, key).set_index("kernel")
        for row, kernel in enumerate(order):
            if kernel in own.index:
                _bar(panel, row, own.loc[kernel], marks[kernel])
            else:
                style.beside(panel, 0, row, "not run", style.FAINT)
        panel.axvline(1, color=style.FAINT, lw=0.8)
        panel.grid(axis="y", visible=False)
        panel.set_yticks(range(len(order)), order)
        panel.tick_params(axis="y", length=0)
        title = style.facet_title(problem, key)
        panel.set_title(style.fitting(title, 0.8 * width_in / across))
        if i // across == down - 1:
            panel.set_xlabel("speed / best peer")
    for i in range(len(keys), across * down):
        axes[i // across][i % across].set_axis_off()
    axes[0][0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0][0].set_xlim(0, 1.75 * data["high"].fillna(data["speed"]).max())
    sizes = [c for c in (*SIZES, "threads") if c in data and c not in problem]
    table = data[["kernel", "host", *sizes, *problem, "status", "speed", "low", "high",
                  "percent_of_ceiling"]]  # fmt: skip
    return style.Drawing(style.finish(figure, summary), table)


def _bar(panel: Axes, row: int, case: pd.Series, mark: style.Mark) -> None:
    if not case["speed"] > 0:
        style.beside(panel, 0, row, case["status"], style.FAINT)
        return
    panel.barh(row, case["speed"], height=0.66, color=mark.color)
    if case["low"] > 0:
        panel.hlines(row, case["low"], case["high"], color=style.INK, lw=0.8)
    words = f"{case['speed']:.2f}×"
    if case["percent_of_ceiling"] > 0:
        words += f"  {case['percent_of_ceiling']:.0f} %"
    end = np.nanmax([1, case["speed"], case["high"]])  # where no line crosses it
    style.beside(panel, end, row, words)
