# SPDX-License-Identifier: Apache-2.0
"""Bars of speed-up over one baseline variant, at the largest size that the baseline was measured.

Hatched bars solve another problem than the baseline (a sparse mask against a dense one, another
score, another layer): the ratio is what the other problem buys, not what a better kernel does.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from attnbench import fit, peers, variants
from attnbench.figures import style
from attnbench.format import significant
from attnbench.variants import mask_label


def choose_baseline(summary: pd.DataFrame) -> str | None:
    """The label of naive where it was measured, else of the variant that is slowest most often."""
    good = summary[summary["status"] == "ok"]
    if good.empty:
        return None
    naive = good[(good["kernel"] == "naive") & (good["pattern"] == "full")]
    if len(naive):
        return naive["label"].value_counts().idxmax()
    by = [c for c in fit.series_columns(summary, fit.growth_axis(summary)) if c != "label"]
    by.append(fit.growth_axis(summary))
    slowest = good.loc[good.groupby(by)["median_ns"].idxmax(), "label"]
    return slowest.value_counts().idxmax()


def ratios(summary: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """One row a case that shares its sizes with a measured case of the baseline.

    Adds `speedup` (baseline's time over the case's), `speedup_low`, `speedup_high` (from both
    intervals, independent), `other_problem` (its mask, score or layer differs from the baseline's).
    """
    over = fit.growth_axis(summary)
    sizes = [c for c in fit.series_columns(summary, over) if c != "label"] + [over]
    base = summary[(summary["label"] == baseline) & (summary["status"] == "ok")]
    base = base.drop_duplicates(sizes)
    joined = summary.merge(base[[*sizes, "median_ns", "low_ns", "high_ns"]], on=sizes,
                           suffixes=("", "_base"))  # fmt: skip
    ok = joined["status"] == "ok"
    joined["speedup"] = (joined["median_ns_base"] / joined["median_ns"]).where(ok)

    def spread(frame_suffix: str) -> pd.Series:
        reach = joined[f"high_ns{frame_suffix}"] / joined[f"low_ns{frame_suffix}"]
        return np.log(reach.astype(float)) / 2

    reach = pd.Series(np.exp(np.sqrt(spread("") ** 2 + spread("_base") ** 2)))
    same = joined["label"] == baseline
    reach = reach.where(~same, 1.0)
    joined["speedup_low"], joined["speedup_high"] = (
        joined["speedup"] / reach,
        joined["speedup"] * reach,
    )
    mine = None if base.empty else _problem(base.iloc[0])
    joined["other_problem"] = [_problem(row) != mine for _, row in joined.iterrows()]
    return joined


def _one_with_usual_options(summary: pd.DataFrame) -> bool:
    usual = variants.usual_options(summary) if summary["kernel"].nunique() == 1 else {}
    return bool(usual) and None not in usual.values()


def _problem(row: pd.Series) -> tuple[str, str, str]:
    """What is computed: each layer computes something else."""
    return mask_label(row), row["score"], row["kernel"] if row["kind"] == "layer" else ""


def speedup(
    records: pd.DataFrame, summary: pd.DataFrame, width_in: float, baseline: str | None = None
) -> style.Drawing | None:
    """Speed-up over `baseline` (a label; see choose_baseline)."""
    plain, machines = variants.by_machine(summary)
    if baseline:
        baseline = dict(zip(summary["label"], plain["label"], strict=True)).get(baseline, baseline)
    elif peers.beside_ours(plain) or _one_with_usual_options(plain):
        return None  # the figures of peers and of options have what to compare with, by problem
    else:
        baseline = choose_baseline(plain)
    if baseline is None or plain["label"].nunique() < 2:
        return None
    summary = plain
    # A ratio is of one machine: each has the baseline of its own.
    sides = [own for _, own in summary.groupby(machines)] if machines else [summary]
    data = pd.concat([ratios(own, baseline) for own in sides], ignore_index=True)
    over = fit.growth_axis(summary)
    facets = machines + [c for c in fit.series_columns(summary, over) if c != "label"]
    if data.empty:
        return None
    data = data[data[over] == data[over].max()] if not facets else data[
        data[over] == data.groupby(facets)[over].transform("max")
    ]  # fmt: skip
    keys = style.facet_keys(data, facets)
    across = min(len(keys), 3 if width_in > 5 else 1)
    down = -(-len(keys) // across)
    marks = style.marks(summary)
    order = data.groupby("label")["speedup"].max().sort_values(na_position="first").index.to_list()
    rows, tall = style.row_labels(order, width_in)
    figure, axes = style.canvas(
        width_in, down, across, 0.55 + 0.17 * tall * len(order), sharey=True, sharex=True
    )
    for i, key in enumerate(keys):
        panel = axes[i // across][i % across]
        own = style.facet(data, facets, key).drop_duplicates("label").set_index("label")
        for row, label in enumerate(order):
            _bar(panel, row, own.loc[label] if label in own.index else None, marks[label])
        panel.axvline(1, color=style.FAINT, lw=0.8)
        panel.set_xscale("log")
        panel.grid(axis="y", visible=False)
        panel.set_yticks(range(len(order)), rows)
        panel.tick_params(axis="y", length=0)
        n = style.facet_title([over], (own[over].max(),))
        title = ", ".join(t for t in (style.facet_title(facets, key), n) if t)
        panel.set_title(style.fitting(title, 0.75 * width_in / across))
        if i // across == down - 1:
            panel.set_xlabel(f"speed-up over {baseline}")
    for i in range(len(keys), across * down):
        axes[i // across][i % across].set_axis_off()
    top = data["speedup_high"].fillna(data["speedup"]).max()
    low = data["speedup_low"].fillna(data["speedup"]).min()
    axes[0][0].set_xlim(min(0.5, low / 1.3), top * 3.2)
    style.unit_ticks(axes[0][0], lambda v: f"{v:g}×", "x")
    handles = []
    if data["other_problem"].any():
        from matplotlib.patches import Patch

        handles = [Patch(facecolor="none", edgecolor=style.FAINT, hatch="//////",
                         label="another problem: its mask, score or layer differs")]  # fmt: skip
    table = data[["label", *facets, over, "status", "speedup", "speedup_low", "speedup_high",
                  "other_problem"]]  # fmt: skip
    return style.Drawing(style.finish(figure, summary, handles), table)


def _bar(panel: Axes, row: int, case: pd.Series | None, mark: style.Mark) -> None:
    if case is None or not case["speedup"] > 0:
        word = "not in the sweep" if case is None else case["status"]
        style.beside(panel, 1, row, word, style.FAINT)
        return
    hatched = bool(case["other_problem"])
    panel.barh(row, case["speedup"] - 1, left=1, height=0.66, lw=0.7, edgecolor=mark.color,
               facecolor="none" if hatched else mark.color, hatch="//////" if hatched else None)  # fmt: skip
    if case["speedup_low"] > 0:
        panel.hlines(row, case["speedup_low"], case["speedup_high"], color=style.INK, lw=0.8)
    end = max(np.nanmax([case["speedup"], case["speedup_high"]]), 1)
    style.beside(panel, end, row, f"{significant(case['speedup'], 3)}×")
