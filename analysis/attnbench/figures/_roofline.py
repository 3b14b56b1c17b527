# SPDX-License-Identifier: Apache-2.0
"""Useful GFLOP/s against useful intensity, under roofs that were measured beside the cases.

Both coordinates count useful work only (admitted pairs, each tensor moved once), so that a kernel
that wastes work falls further below the roof instead of appearing to do more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from attnbench.figures import style


def bandwidths(records: pd.DataFrame, threads: int) -> dict[str, float]:
    """Measured read bandwidths in GB/s by level of the hierarchy, where the run recorded them."""
    environment = records.attrs.get("environment", {})
    table = environment.get("ceilings") or environment.get("peak") or {}
    rows = table.get("rows", []) if isinstance(table, dict) else table
    for row in rows if isinstance(rows, list) else []:
        if row.get("threads") == threads and isinstance(row.get("read_gbps"), dict):
            return {k: float(v) for k, v in row["read_gbps"].items() if v}
    return {}


def roofline(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """All measured cases; a line joins one variant's sizes, the largest is filled."""
    good = summary[
        (summary["status"] == "ok") & (summary["gflops"] > 0) & (summary["intensity"] > 0)
    ]
    if good.empty or good["ceiling_gflops"].isna().all():
        return None
    figure, axes = style.canvas(width_in, 1, 1, 3.2 if width_in > 5 else 2.6)
    panel = axes[0][0]
    marks = style.marks(summary)
    low, high = good["intensity"].min() / 2, good["intensity"].max() * 2
    x = np.geomspace(low, high, 200)
    roofs = good.groupby(["threads", "dtype"])["ceiling_gflops"].median()
    for (threads, dtype), roof in roofs.items():
        words = f"{dtype} peak, {threads} thread{'s' if threads > 1 else ''}: {roof:.0f} GFLOP/s"
        panel.plot(x, np.full_like(x, roof), color=style.INK, lw=1)
        panel.annotate(words, (high, roof), xytext=(-2, 3), textcoords="offset points",
                       ha="right", fontsize="small")  # fmt: skip
    threads = int(good["threads"].min())
    levels = bandwidths(records, threads)
    if not levels and good["ceiling_gbps"].notna().any():
        levels = {"read, as large as the tensors": float(good["ceiling_gbps"].median())}
    for name, gbps in levels.items():
        edge = roofs.max() / gbps
        if edge > low:
            part = x[x <= edge * 1.001]
            panel.plot(part, gbps * part, color=style.FAINT, lw=0.8, ls=(0, (3, 1.5)))
            panel.annotate(f"{name} {gbps:.0f} GB/s", (part[0], gbps * part[0]), xytext=(2, 2),
                           textcoords="offset points", color=style.FAINT, fontsize="small")  # fmt: skip
    drawn = []
    for label, series in good.groupby("label", sort=False):
        mark = marks[label]
        drawn.append(label)
        others = [c for c in ("head_dim", "d_model", "heads", "batch") if series[c].nunique() > 1]
        for _, line in series.groupby(others) if others else [((), series)]:
            line = line.sort_values("useful_flops")
            panel.plot(line["intensity"], line["gflops"], color=mark.color, lw=0.5, alpha=0.5)
            panel.plot(line["intensity"], line["gflops"], color=mark.color, marker=mark.marker,
                       ls="none", mfc="none", ms=2.8, mew=0.7)  # fmt: skip
            panel.plot(line["intensity"].tail(1), line["gflops"].tail(1), color=mark.color,
                       marker=mark.marker, ls="none", ms=4)  # fmt: skip
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=10)
    panel.set_xlim(low, high)
    panel.set_ylim(good["gflops"].min() / 1.8, max(roofs.max(), good["gflops"].max()) * 1.9)
    style.unit_ticks(panel, lambda v: f"{v:g}", "x")
    style.unit_ticks(panel, lambda v: f"{v:g}")
    panel.set_xlabel("useful intensity (flop/byte)")
    panel.set_ylabel("useful GFLOP/s")
    handles: list[Any] = [style.handle(label, marks[label], linestyle="none") for label in drawn]
    columns = ["label", "keys", "head_dim", "d_model", "intensity", "gflops", "ceiling_gflops",
               "ceiling_gbps", "fraction_of_ceiling"]  # fmt: skip
    return style.Drawing(style.finish(figure, summary, handles), good[columns])
