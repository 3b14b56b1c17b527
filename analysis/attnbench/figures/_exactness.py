# SPDX-License-Identifier: Apache-2.0
"""Error beside time: a row a variant, every case a dot, so that speed bought with precision shows.

Left, time for a billion useful flops (comparable between sizes and masks); right, the error
max|out - oracle| / max|v| with the tolerance that each case was held to.
"""

from __future__ import annotations

import pandas as pd

from attnbench.figures import style


def exactness(
    records: pd.DataFrame, summary: pd.DataFrame, width_in: float
) -> style.Drawing | None:
    """All cases with an error, the incorrect ones (which have no time) as crosses."""
    shown = summary[summary["error"].notna() & summary["status"].isin(["ok", "incorrect"])].copy()
    if shown.empty:
        return None
    shown["ns_per_gflop"] = 1e9 / shown["gflops"].where(shown["status"] == "ok")
    order = (
        shown.groupby("label")["ns_per_gflop"].median().sort_values(ascending=False).index.to_list()
    )
    order += [label for label in dict.fromkeys(shown["label"]) if label not in order]
    rows, tall = style.row_labels(order, width_in)
    figure, axes = style.canvas(width_in, 1, 2, 0.7 + 0.19 * tall * len(order), sharey=True)
    left, right = axes[0]
    marks = style.marks(summary)
    for row, label in enumerate(order):
        own, mark = shown[shown["label"] == label], marks[label]
        good, wrong = own[own["status"] != "incorrect"], own[own["status"] == "incorrect"]
        dots = {"color": mark.color, "marker": mark.marker, "ls": "none", "alpha": 0.55, "ms": 3}
        left.plot(good["ns_per_gflop"], [row] * len(good), **dots)
        # An exact zero has no place on a log axis: it stands at the left edge.
        right.plot(good["error"].clip(lower=1e-9), [row] * len(good), **dots)
        right.plot(
            own["tolerance"], [row] * len(own), color=style.FAINT, marker="|", ls="none", ms=6
        )
        right.plot(
            wrong["error"], [row] * len(wrong), color=mark.color, marker="x", ls="none", ms=5
        )
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_ylim(-0.6, len(order) - 0.4)
        panel.set_yticks(range(len(order)), rows)
        panel.tick_params(axis="y", length=0)
    style.unit_ticks(left, style.short_time, "x")
    left.set_xlabel("time a useful GFLOP")
    right.set_xlabel("error, max|out − oracle| / max|v|" if width_in > 5 else "error, over max|v|")
    grey = style.Mark(style.FAINT, "|", "none")
    handles = [style.handle("tolerance", grey, markersize=6)]
    if (shown["status"] == "incorrect").any():
        handles.append(style.handle("incorrect: not timed", style.Mark(style.FAINT, "x", "none")))
    columns = ["label", "keys", "head_dim", "status", "median_ns", "ns_per_gflop", "error",
               "error_frobenius", "tolerance", "rows_checked"]  # fmt: skip
    return style.Drawing(style.finish(figure, summary, handles), shown[columns])
