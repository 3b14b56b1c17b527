# SPDX-License-Identifier: Apache-2.0
"""Speed-up over the fewest threads, against the ideal; nothing where one thread count was run."""

from __future__ import annotations

import numpy as np
import pandas as pd

from attnbench import scaling
from attnbench.figures import style


def threads(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """A line a kernel at its largest case that was measured at every thread count."""
    data = scaling.largest_of_each(scaling.threads(summary))
    if data.empty:
        return None
    counts = sorted(data["threads"].unique())
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
    columns = ["base", "keys", "head_dim", "threads", "median_ns", "speedup",
               "efficiency", "serial"]  # fmt: skip
    return style.Drawing(style.finish(figure, summary, handles), data[columns])
