# SPDX-License-Identifier: Apache-2.0
"""What has no figure, and why: skipped, refused, failed, timed out, incorrect, partly lost."""

from __future__ import annotations

import textwrap

import pandas as pd

from attnbench import fit
from attnbench.figures import style
from attnbench.format import bytes_text, time_text


def table(summary: pd.DataFrame) -> pd.DataFrame:
    """One row a variant, status and reason; `sizes` lists the cases. Also cases lost in part.

    Digits of a reason may differ from case to case (a predicted figure): the first stands for all.
    """
    gaps = summary[(summary["status"] != "ok") | (summary["reason"].str.len() > 0)].copy()
    if gaps.empty:
        return pd.DataFrame(columns=["label", "status", "cases", "sizes", "reason"])
    over = fit.growth_axis(summary)
    facets = [c for c in fit.series_columns(summary, over) if c != "label"]
    gaps["shape"] = gaps["reason"].str.replace(r"[0-9][0-9.,e+-]*", "#", regex=True)
    gaps["shape"] = gaps["shape"].str.replace(r"\b(B|KiB|MiB|GiB|ns|µs|ms|s)\b", "", regex=True)
    gaps["status"] = gaps["status"].where(gaps["status"] != "ok", "partly lost")
    rows = []
    for (label, status, _), own in gaps.groupby(["label", "status", "shape"], sort=False):
        words = [f"{over} {_listed(own[over])}"]
        words += [f"{c} {_listed(own[c])}" for c in facets]
        reason = own["reason"].iloc[0]
        for column, text in (("predicted_ns", time_text), ("predicted_bytes", bytes_text)):
            amount = text(own[column].max())
            if amount and status == "skipped" and "predict" not in reason:
                reason += f" (predicted {amount})"
        rows.append({"label": label, "status": status, "cases": len(own),
                     "sizes": ", ".join(words), "reason": reason or "no reason recorded"})  # fmt: skip
    return pd.DataFrame(rows)


def gaps(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """The table as a figure, so that it travels with the others into a paper's appendix."""
    data = table(summary)
    if data.empty:
        return None
    wide = width_in > 5
    size = 6.6 if wide else 5.4
    letters = int(width_in * 72 / (size * 0.56))
    widths = [int(letters * share) for share in (0.24, 0.10, 0.26, 0.40)]
    blocks = []
    for _, row in data.iterrows():
        cells = (row["label"], row["status"], f"{row['cases']}: {row['sizes']}", row["reason"])
        blocks.append(
            [textwrap.wrap(c, max(w - 2, 6)) or [""] for c, w in zip(cells, widths, strict=True)]
        )
    lines = sum(max(map(len, b)) for b in blocks) + 0.45 * len(blocks) + 1.6
    step = size * 1.3 / 72
    figure, axes = style.canvas(width_in, 1, 1, lines * step + 0.08)
    panel = axes[0][0]
    panel.set_axis_off()
    panel.set_ylim(lines, 0)
    panel.set_xlim(0, letters)
    starts = [0, *pd.Series(widths).cumsum().tolist()[:-1]]
    for x, head in zip(starts, ("variant", "status", "cases", "reason"), strict=True):
        panel.text(x, 0.95, head, va="baseline", fontsize=size, color=style.FAINT)
    y = 1.5
    for block in blocks:
        panel.axhline(y - 0.12, color=style.GRID, lw=0.5)
        for x, cell in zip(starts, block, strict=True):
            for i, line in enumerate(cell):
                panel.text(x, y + i + 0.75, line, va="baseline", fontsize=size)
        y += max(map(len, block)) + 0.45
    return style.Drawing(style.finish(figure, summary), data)


def _listed(values: pd.Series) -> str:
    distinct = sorted(values.unique())
    if len(distinct) > 4:
        return f"{distinct[0]} ... {distinct[-1]}"
    return ", ".join(map(str, distinct))
