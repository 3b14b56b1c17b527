# SPDX-License-Identifier: Apache-2.0
"""Bars of speed over that of the best peer, a panel a problem: one vertical line is what to beat."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from attnbench import peers as measured
from attnbench import variants
from attnbench.figures import style

# What may tell two problems apart, beside their masks and data types.
_NAMES = {"machine": "machine", "keys": "n", "queries": "queries", "head_dim": "d",
          "v_dim": "v_dim", "heads": "heads", "kv_heads": "kv_heads", "batch": "batch",
          "threads": "threads"}  # fmt: skip


def peers(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """Ours, each peer, and how near both come to the ceiling; None where there are no peers."""
    plain, machines = variants.by_machine(summary)
    data = measured.over_best_peer(records, plain)
    if data.empty:
        return None
    told = [c for c in _NAMES if c in machines or (c != "machine" and data[c].nunique() > 1)]
    if "queries" in told and (data["keys"] == data["queries"]).all():
        told.remove("queries")
    if "v_dim" in told and (data["head_dim"] == data["v_dim"]).all():
        told.remove("v_dim")
    if "kv_heads" in told and (data["heads"] == data["kv_heads"]).all():
        told.remove("kv_heads")
    keys = style.facet_keys(data, ["dtype", "mask", *told])
    keys.sort(key=lambda key: (key[0] != "f32", key[0], key[1]))
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
        own = style.facet(data, ["dtype", "mask", *told], key).set_index("kernel")
        for row, kernel in enumerate(order):
            if kernel in own.index:
                _bar(panel, row, own.loc[kernel], marks[kernel])
            else:
                _words(panel, row, "not run")
        panel.axvline(1, color=style.FAINT, lw=0.8)
        panel.grid(axis="y", visible=False)
        panel.set_yticks(range(len(order)), order)
        panel.tick_params(axis="y", length=0)
        sizes = [f"{_NAMES[c]} = {v}" if c != "machine" else str(v)
                 for c, v in zip(told, key[2:], strict=True)]  # fmt: skip
        title = ", ".join([*sizes, str(key[1]) or "dense", str(key[0])])
        panel.set_title(style.fitting(title, 0.8 * width_in / across))
        if i // across == down - 1:
            panel.set_xlabel("speed / best peer")
    for i in range(len(keys), across * down):
        axes[i // across][i % across].set_axis_off()
    axes[0][0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0][0].set_xlim(0, 1.75 * data["high"].fillna(data["speed"]).max())
    table = data[["kernel", "host", *(c for c in _NAMES if c in data), "mask", "dtype", "status", "speed", "low",
                  "high", "percent_of_ceiling"]]  # fmt: skip
    return style.Drawing(style.finish(figure, summary), table)


def _words(panel: Axes, row: int, words: str) -> None:
    panel.annotate(words, (0, row), xytext=(3, 0), textcoords="offset points", va="center",
                   color=style.FAINT, fontsize="small")  # fmt: skip


def _bar(panel: Axes, row: int, case: pd.Series, mark: style.Mark) -> None:
    if not case["speed"] > 0:
        _words(panel, row, case["status"])
        return
    panel.barh(row, case["speed"], height=0.66, color=mark.color)
    if case["low"] > 0:
        panel.hlines(row, case["low"], case["high"], color=style.INK, lw=0.8)
    words = f"{case['speed']:.2f}×"
    if case["percent_of_ceiling"] > 0:
        words += f"  {case['percent_of_ceiling']:.0f} %"
    end = np.nanmax([1, case["speed"], case["high"]])  # where no line crosses it
    panel.annotate(words, (end, row), xytext=(3, 0), va="center", textcoords="offset points",
                   fontsize="small")  # fmt: skip
