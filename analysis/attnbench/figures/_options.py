# SPDX-License-Identifier: Apache-2.0
"""Bars of what each option of a kernel is worth: its speed over that of the usual options, a panel
a problem."""

from __future__ import annotations

import numpy as np
import pandas as pd

from attnbench import options as measured
from attnbench import peers
from attnbench.figures import style
from attnbench.variants import SIZES


def options(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """None where no kernel was measured both with its usual options and with others."""
    data = measured.over_usual(records, summary)
    if data.empty or not (data["speed"] > 0).any():
        return None
    data["mask"] = data["mask"].replace("", "dense")
    data["percent"] = 100 * (data["speed"] - 1)
    problem = peers.problem_columns(data)
    keys = style.facet_keys(data, problem)
    keys.sort(key=lambda key: (key[-1] != "f32", key[-1], key[-2] != "dense", key[-2]))
    across = min(len(keys), 4 if width_in > 5 else 2)
    down = -(-len(keys) // across)
    order = data.groupby("setting")["speed"].median().sort_values(na_position="first").index
    marks = style.marks(data.assign(label=data["kernel"]))
    kernels = data["kernel"].nunique()
    names = [name if kernels > 1 else name.split(" ", 1)[1] for name in order]
    rows, tall = style.row_labels(names, width_in)
    figure, axes = style.canvas(
        width_in, down, across, 0.5 + 0.15 * tall * len(order), sharey=True, sharex=True
    )
    for i, key in enumerate(keys):
        panel = axes[i // across][i % across]
        own = style.facet(data, problem, key).set_index("setting")
        for row, setting in enumerate(order):
            if setting not in own.index:
                continue
            case = own.loc[setting]
            if not case["speed"] > 0:
                style.beside(panel, 0, row, case["status"], style.FAINT)
                continue
            panel.barh(row, case["percent"], height=0.66, color=marks[case["kernel"]].color)
            ends = [case["percent"], 0.0]
            if case["low"] > 0:
                ends += [100 * (case["low"] - 1), 100 * (case["high"] - 1)]
                panel.hlines(row, *ends[2:], color=style.INK, lw=0.8)
            style.beside(panel, np.max(ends), row, f"{round(case['percent'], 1) + 0.0:+.1f}")
        panel.axvline(0, color=style.FAINT, lw=0.8)
        panel.grid(axis="y", visible=False)
        panel.set_yticks(range(len(order)), rows)
        panel.tick_params(axis="y", length=0)
        panel.set_title(style.fitting(style.facet_title(problem, key), 0.8 * width_in / across))
        if i // across == down - 1:
            panel.set_xlabel("speed, % over usual")
    for i in range(len(keys), across * down):
        axes[i // across][i % across].set_axis_off()
    low, high = data["percent"].min(), max(data["percent"].max(), 0)
    reach = high - min(low, 0)
    axes[0][0].set_xlim(min(low, 0) - 0.05 * reach, high + 0.45 * reach)
    sizes = [c for c in (*SIZES, "threads") if c in data and c not in problem]
    table = data[["setting", *sizes, *problem, "status", "speed", "low", "high"]]
    return style.Drawing(style.finish(figure, summary), table)
