# SPDX-License-Identifier: Apache-2.0
"""Useful GFLOP/s against useful intensity, under roofs that were measured beside the cases.

Both coordinates count useful work only (admitted pairs, each tensor moved once), so that a kernel
that wastes work falls further below the roof instead of appearing to do more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from attnbench import machine, variants
from attnbench.figures import style


def bandwidths(environment: dict[str, Any], threads: int) -> dict[str, float]:
    """Measured read bandwidths in GB/s by level of the hierarchy, where the run recorded them: the
    median over the parts of a merged run."""
    found: dict[str, list[float]] = {}
    for part in machine.each_part(environment):
        table = part.get("ceilings") or part.get("peak") or {}
        rows = table.get("rows", []) if isinstance(table, dict) else table
        for row in rows if isinstance(rows, list) else []:
            if row.get("threads") == threads and isinstance(row.get("read_gbps"), dict):
                for level, gbps in row["read_gbps"].items():
                    found.setdefault(level, []).extend([float(gbps)] if gbps else [])
                break
    return {level: float(np.median(values)) for level, values in found.items() if values}


def roofline(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """All measured cases; a line joins one variant's sizes, the largest is filled. Each machine has
    a panel, and its own roofs."""
    summary, machines = variants.by_machine(summary)
    good = summary[
        (summary["status"] == "ok") & (summary["gflops"] > 0) & (summary["intensity"] > 0)
    ]
    if good.empty or good["ceiling_gflops"].isna().all():
        return None
    keys = style.facet_keys(good, machines)
    across = min(len(keys), 2 if width_in > 5 else 1)
    down = -(-len(keys) // across)
    figure, axes = style.canvas(
        width_in, down, across, 3.2 if width_in > 5 else 2.6, sharex=True, sharey=True
    )
    marks = style.marks(summary)
    limits = good["intensity"].min() / 2, good["intensity"].max() * 2
    highest = good["gflops"].max()
    for i, key in enumerate(keys):
        panel = axes[i // across][i % across]
        own = style.facet(good, machines, key)
        highest = max(highest, _roofs(panel, own, limits))
        _cases(panel, own, marks)
        panel.set_title(style.facet_title(machines, key) if machines else "")
        panel.tick_params(labelbottom=True)
        if i + across >= len(keys):
            panel.set_xlabel("useful intensity (flop/byte)")
        if i % across == 0:
            panel.set_ylabel("useful GFLOP/s")
    for i in range(len(keys), across * down):
        axes[i // across][i % across].set_axis_off()
    for panel in axes.flat[: len(keys)]:
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=10)
        panel.set_xlim(*limits)
        panel.set_ylim(good["gflops"].min() / 1.8, highest * 1.9)
        style.unit_ticks(panel, lambda v: f"{v:g}", "x")
        style.unit_ticks(panel, lambda v: f"{v:g}")
    handles: list[Any] = []  # variants of a kernel look alike here: one entry for all of them
    for kernel, labels in good.groupby("kernel", sort=False)["label"].unique().items():
        name = labels[0] if len(labels) == 1 else str(kernel)
        handles.append(style.handle(name, marks[labels[0]], linestyle="none"))
    columns = [*machines, "label", "keys", "head_dim", "d_model", "intensity", "gflops",
               "ceiling_gflops", "ceiling_gbps", "fraction_of_ceiling"]  # fmt: skip
    return style.Drawing(style.finish(figure, summary, handles), good[columns])


def _roofs(panel: Axes, own: pd.DataFrame, limits: tuple[float, float]) -> float:
    """Draws what was measured beside these cases; the highest roof in GFLOP/s, 0 where none was."""
    low, high = limits
    x = np.geomspace(low, high, 200)
    roofs = own.groupby(["threads", "dtype"])["ceiling_gflops"].median().dropna()
    if roofs.empty:
        return 0.0
    for (threads, dtype), roof in roofs.items():
        words = f"{dtype} peak, {threads} thread{'s' if threads > 1 else ''}: {roof:.0f} GFLOP/s"
        panel.plot(x, np.full_like(x, roof), color=style.INK, lw=1)
        panel.annotate(words, (high, roof), xytext=(-2, 3), textcoords="offset points",
                       ha="right", fontsize="small")  # fmt: skip
    known = own.attrs.get("environments", {})
    environment = known.get(own["source"].iloc[0]) or own.attrs.get("environment", {})
    levels = bandwidths(environment, int(own["threads"].min()))
    if not levels and own["ceiling_gbps"].notna().any():
        levels = {"read, as large as the tensors": float(own["ceiling_gbps"].median())}
    for name, gbps in levels.items():
        edge = roofs.max() / gbps
        if edge > low:
            part = x[x <= edge * 1.001]
            panel.plot(part, gbps * part, color=style.FAINT, lw=0.8, ls=(0, (3, 1.5)))
            panel.annotate(f"{name} {gbps:.0f} GB/s", (part[0], gbps * part[0]), xytext=(2, 2),
                           textcoords="offset points", color=style.FAINT, fontsize="small")  # fmt: skip
    return float(roofs.max())


def _cases(panel: Axes, own: pd.DataFrame, marks: dict[str, style.Mark]) -> None:
    for label, series in own.groupby("label", sort=False):
        mark = marks[label]
        axes = ["dtype", "threads", "head_dim", "d_model", "heads", "kv_heads", "batch"]
        if (series["queries"] != series["keys"]).any():
            axes.append("queries")
        others = [c for c in axes if series[c].nunique() > 1]
        for _, line in series.groupby(others, dropna=False) if others else [((), series)]:
            line = line.sort_values("useful_flops")
            panel.plot(line["intensity"], line["gflops"], color=mark.color, lw=0.5, alpha=0.5)
            panel.plot(line["intensity"], line["gflops"], color=mark.color, marker=mark.marker,
                       ls="none", mfc="none", ms=2.8, mew=0.7)  # fmt: skip
            panel.plot(line["intensity"].tail(1), line["gflops"].tail(1), color=mark.color,
                       marker=mark.marker, ls="none", ms=4)  # fmt: skip
