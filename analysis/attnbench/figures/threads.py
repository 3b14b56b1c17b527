# SPDX-License-Identifier: Apache-2.0
"""Speed-up over the fewest threads, against the ideal; nothing where one thread count was run."""

from __future__ import annotations

import numpy as np
import pandas as pd

from attnbench.figures import style
from attnbench.variants import SIZES


def threads(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """A line a kernel at its largest case that was measured at every thread count."""
    counts = sorted(int(t) for t in summary["threads"].unique())
    good = summary[summary["status"] == "ok"]
    if len(counts) < 2 or good.empty:
        return None
    good = good.assign(base=good["label"].str.replace(r"(, )?\b\d+ threads", "", regex=True)
                       .str.replace(" ()", "", regex=False).str.replace("(, ", "(", regex=False))  # fmt: skip
    rows = []
    sizes = [s for s in SIZES if s in good and good[s].notna().all()]
    for _, own in good.groupby("base", sort=False):
        whole = [g for _, g in own.groupby(sizes) if g["threads"].nunique() == len(counts)]
        if whole:
            largest = max(whole, key=lambda g: g["useful_flops"].max()).sort_values("threads")
            rows.append(largest.assign(speedup=largest["median_ns"].iloc[0] / largest["median_ns"]))
    if not rows:
        return None
    data = pd.concat(rows)
    figure, axes = style.canvas(width_in, 1, 1, 2.6)
    panel = axes[0][0]
    ideal = np.array(counts, float)
    panel.plot(ideal, ideal / ideal[0], color=style.FAINT, lw=0.8, ls=(0, (1, 2)))
    panel.annotate("ideal", (ideal[-1], ideal[-1] / ideal[0]), xytext=(-4, -2), ha="right",
                   textcoords="offset points", color=style.FAINT, fontsize="small")  # fmt: skip
    named = data.assign(label=data["base"])
    marks = style.marks(named)
    for base, own in named.groupby("label", sort=False):
        mark = marks[base]
        panel.plot(
            own["threads"], own["speedup"], color=mark.color, marker=mark.marker, ls=mark.dash
        )
    panel.set_xticks(counts, counts)
    panel.set_xlabel("threads")
    panel.set_ylabel(f"speed-up over {counts[0]} thread{'s' if counts[0] > 1 else ''}")
    handles = [style.handle(base, mark) for base, mark in marks.items()]
    columns = ["base", "keys", "head_dim", "threads", "median_ns", "speedup"]
    return style.Drawing(style.finish(figure, summary, handles), data[columns])
