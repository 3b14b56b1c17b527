# SPDX-License-Identifier: Apache-2.0
"""Bars of speed over that of the best peer, a panel a problem: one vertical line is what to beat."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from attnbench import peers as measured
from attnbench.figures import _problems, style


def peers(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """Ours, each peer, and how near both come to the ceiling; None where there are no peers."""
    data = measured.over_best_peer(records, summary)
    if data.empty:
        return None
    data["mask"] = data["mask"].replace("", "dense")
    order = (
        data.groupby("kernel")["speed"].median().sort_values(na_position="first").index.to_list()
    )
    marks = style.marks(data.assign(label=data["kernel"]))

    def row(panel: Axes, at: int, case: pd.Series | None) -> None:
        if case is None:
            style.beside(panel, 0, at, "not run", style.FAINT)
        else:
            _bar(panel, at, case, marks[case["kernel"]])

    figure, axes = _problems.panels(data, "kernel", order, width_in, row, 1, "speed / best peer")
    axes[0][0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0][0].set_xlim(0, 1.75 * data["high"].fillna(data["speed"]).max())
    columns = ["status", "speed", "low", "high", "percent_of_ceiling"]
    table = data[["kernel", "host", *_problems.columns(data), *columns]]
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
