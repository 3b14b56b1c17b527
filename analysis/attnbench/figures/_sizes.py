# SPDX-License-Identifier: Apache-2.0
"""n x d: useful GFLOP/s of each variant over both sizes, one scale from zero to the peak for all."""

from __future__ import annotations

import numpy as np
import pandas as pd

from attnbench.figures import style

_SIGNS = {"skipped": "skip", "refused": "refused", "failed": "fail", "timeout": "time out",
          "incorrect": "wrong", "": ""}  # fmt: skip


def sizes(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """A panel a variant: keys across, head_dim up; a cell without a figure says why."""
    shown = summary[summary["label"].isin(summary[summary["status"] == "ok"]["label"])]
    width = "d_model" if shown["d_model"].notna().all() else "head_dim"
    keys, dims = sorted(shown["keys"].unique()), sorted(shown[width].dropna().unique())
    if len(keys) < 2 or len(dims) < 2:
        return None
    labels = list(dict.fromkeys(shown["label"]))
    across = min(len(labels), 3 if width_in > 5 else 1)
    across = 2 if width_in > 5 and len(keys) > 6 else across
    down = -(-len(labels) // across)
    figure, axes = style.canvas(
        width_in, down, across, 0.42 + 0.22 * len(dims), sharex=True, sharey=True
    )
    peak = shown["ceiling_gflops"].max()
    peak = peak if peak > 0 else shown["gflops"].max()
    image = None
    for i, label in enumerate(labels):
        panel, own = axes[i // across][i % across], shown[shown["label"] == label]
        own = own.sort_values("gflops").drop_duplicates(["keys", width], keep="last")
        table = own.pivot(index=width, columns="keys", values="gflops")
        table = table.reindex(index=dims, columns=keys)
        status = own.pivot(index=width, columns="keys", values="status")
        status = status.reindex(index=dims, columns=keys)
        image = panel.imshow(
            table, origin="lower", aspect="auto", cmap="cividis", vmin=0, vmax=peak
        )
        for (y, x), value in np.ndenumerate(table.to_numpy(float)):
            if np.isfinite(value):
                color = "#ffffff" if value < 0.6 * peak else "#000000"
                panel.text(x, y, f"{value:.0f}" if value >= 9.95 else f"{value:.1f}", ha="center",
                           va="center", fontsize="small", color=color)  # fmt: skip
            else:
                word = status.to_numpy(object)[y, x]
                panel.text(x, y, _SIGNS.get(word if isinstance(word, str) else "", "lost"),
                           ha="center", va="center", fontsize="x-small", color=style.FAINT)  # fmt: skip
        panel.set_xticks(range(len(keys)), [style.size_text(k) for k in keys])
        panel.set_yticks(range(len(dims)), dims)
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        panel.set_title(style.fitting(label, width_in / across * 0.8))
        if i % across == 0:
            panel.set_ylabel("d")
        if i // across == down - 1 or i + across >= len(labels):
            panel.set_xlabel(style.axis_name(summary, "keys"))
            panel.tick_params(labelbottom=True)
    for i in range(len(labels), across * down):
        axes[i // across][i % across].set_axis_off()
    assert image is not None
    bar = figure.colorbar(
        image, ax=axes, shrink=min(1, 1.1 / figure.get_figheight() + 0.3), pad=0.01, aspect=16
    )
    bar.set_label("GFLOP/s")
    bar.outline.set_visible(False)
    data = shown[["label", "keys", width, "heads", "status", "gflops", "fraction_of_ceiling"]]
    return style.Drawing(style.finish(figure, summary), data)
