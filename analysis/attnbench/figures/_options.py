# SPDX-License-Identifier: Apache-2.0
"""Bars of what each option of a kernel is worth: its speed over that of the usual options, a panel
a problem."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from attnbench import options as measured
from attnbench.figures import _problems, style


def options(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """None where no kernel was measured both with its usual options and with others."""
    data = measured.over_usual(records, summary)
    if data.empty or not (data["speed"] > 0).any():
        return None
    data["mask"] = data["mask"].replace("", "dense")
    data["percent"] = 100 * (data["speed"] - 1)
    order = data.groupby("setting")["speed"].median().sort_values(na_position="first").index
    marks = style.marks(data.assign(label=data["kernel"]))

    def row(panel: Axes, at: int, case: pd.Series | None) -> None:
        if case is not None:
            _bar(panel, at, case, marks[case["kernel"]])

    several = data["kernel"].nunique() > 1
    figure, axes = _problems.panels(
        data, "setting", order.to_list(), width_in, row, 0, "speed, % over usual",
        [name if several else name.split(" ", 1)[1] for name in order],
    )  # fmt: skip
    ends = 100 * (data[["speed", "low", "high"]] - 1)  # no stroke is cut
    low, high = min(ends.min(axis=None), 0), max(ends.max(axis=None), 0)
    reach = high - low
    axes[0][0].set_xlim(low - 0.05 * reach, high + 0.45 * reach)
    table = data[["setting", *_problems.columns(data), "status", "speed", "low", "high"]]
    return style.Drawing(style.finish(figure, summary), table)


def _bar(panel: Axes, row: int, case: pd.Series, mark: style.Mark) -> None:
    if not case["speed"] > 0:
        style.beside(panel, 0, row, case["status"], style.FAINT)
        return
    panel.barh(row, case["percent"], height=0.66, color=mark.color)
    low, high = (100 * (case[end] - 1) for end in ("low", "high"))
    if case["low"] > 0:
        panel.hlines(row, low, high, color=style.INK, lw=0.8)
    end = np.nanmax([0, case["percent"], low, high])
    style.beside(panel, end, row, f"{round(case['percent'], 1) + 0.0:+.1f}")
