# SPDX-License-Identifier: Apache-2.0
"""Time and memory against size, log-log, with slope guides and the local slopes underneath.

What was not measured is drawn too: hollow markers at the predicted value where there is one (the
harness's prediction, else the fit's), crosses at the foot where there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from attnbench import fit, variants
from attnbench.figures import style

FEWEST_SIZES = 3
PAGE_BYTES = 4096  # a run that made no page resident stands at one: zero has no place on the axis
_COLUMNS = {
    "time": ("median_ns", "predicted_ns", "time", style.short_time, 10),
    # The kernel's own: a prediction in the record counts the tensors too, the workspace does not.
    "memory": ("memory_bytes", "workspace_bytes", "peak memory", style.short_bytes, 2),
}


def time(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """Time a run against the swept size."""
    return _growth(records, summary, width_in, "time", fit.growth_axis(summary))


def time_by_second_size(
    records: pd.DataFrame, summary: pd.DataFrame, width_in: float
) -> style.Drawing | None:
    """The same against the second size that was swept, where there is one."""
    axes = fit.growth_axes(summary)
    return _growth(records, summary, width_in, "time", axes[1]) if len(axes) > 1 else None


def memory(records: pd.DataFrame, summary: pd.DataFrame, width_in: float) -> style.Drawing | None:
    """Peak memory above the process's floor against the swept size."""
    return _growth(records, summary, width_in, "memory", fit.growth_axis(summary))


def _growth(
    records: pd.DataFrame, summary: pd.DataFrame, width_in: float, quantity: str, over: str
) -> style.Drawing | None:
    value, predicted, name, text, base = _COLUMNS[quantity]
    shown = summary[summary["status"] != "refused"]
    shown = fit.grown(shown, fit.series_columns(shown, over), over)
    good = shown[(shown["status"] == "ok") & (shown[value] > 0)]
    if good[over].nunique() < FEWEST_SIZES:
        return None
    by = fit.series_columns(shown, over)
    facets = by[1:]
    table, fits = fit.fit_summary(records, shown, quantity, over)
    known = {
        tuple(row[c] for c in by): f for (_, row), f in zip(table.iterrows(), fits, strict=True)
    }
    data = _with_predictions(shown, quantity, over, by, value, predicted, known)
    data, machines = variants.by_machine(data)
    if machines:
        plain = dict(zip(summary["label"], variants.by_machine(summary)[0]["label"], strict=True))
        table = table.assign(label=table["label"].map(plain))
    facets = machines + facets
    keys = style.facet_keys(data, facets)
    across = min(len(keys), 3 if width_in > 5 else 1)
    down = -(-len(keys) // across)
    figure, axes = style.canvas(
        width_in, 2 * down, across, 1.65 if width_in > 5 else 1.35,
        gridspec_kw={"height_ratios": [2.6, 1] * down},
    )  # fmt: skip
    marks = style.marks(variants.by_machine(summary)[0])
    kinds: set[str] = set()
    limits = _limits(data)
    steepest = 2.0
    for i, key in enumerate(keys):
        top = axes[2 * (i // across)][i % across]
        bottom = axes[2 * (i // across) + 1][i % across]
        own = style.facet(data, facets, key)
        top.set_yscale("log", base=base)
        kinds |= _panel(top, own, over, marks, limits)
        steepest = max(steepest, _slopes(bottom, own, over, marks))
        for panel in (top, bottom):
            style.log_sizes(panel, data[over], style.axis_name(summary, over))
        _guides(top, data[over], "n" if over in ("keys", "queries") else "d")
        style.unit_ticks(top, text)
        top.set_xlabel("")
        top.tick_params(labelbottom=False)
        if i % across:
            top.tick_params(labelleft=False)
            bottom.tick_params(labelleft=False)
        top.set_title(style.facet_title(facets, key) if facets else "")
        if i % across == 0:
            top.set_ylabel(name)
            bottom.set_ylabel("local slope")
    highest = min(max(2.5, steepest + 0.3), 4.5)
    for row in axes[1::2]:  # one scale: the ticks are named on the left alone
        for bottom in row:
            bottom.set_ylim(-0.4, highest)
            bottom.set_yticks(range(int(highest) + 1))
    for i in range(len(keys), across * down):
        axes[2 * (i // across)][i % across].set_axis_off()
        axes[2 * (i // across) + 1][i % across].set_axis_off()
    drawn = [label for label in marks if label in set(data["label"])]
    named = _with_exponents(table, over)
    handles = [style.handle(named.get(label, label), marks[label]) for label in drawn]
    handles += style.gap_handles(kinds)
    columns = [*machines, *by, over, "status", "reason", "value", "low", "high", "drawn_as"]
    unit = "_ns" if quantity == "time" else "_bytes"
    points = data[columns].rename(columns={c: c + unit for c in ("value", "low", "high")})
    return style.Drawing(style.finish(figure, summary, handles), points)


def _with_exponents(table: pd.DataFrame, over: str) -> dict[str, str]:
    """label -> label with its fitted exponent, or the range of them over the panels."""
    base = {"keys": "n", "head_dim": "d"}.get(over, over)
    named: dict[str, str] = {}
    if table.empty:
        return named
    for label, own in table.groupby("label", sort=False):
        low, high = own["exponent"].min(), own["exponent"].max()
        if np.isfinite(low):
            span = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f}–{high:.2f}"
            named[label] = f"{label}: {base}^{span}"
    return named


def _with_predictions(
    shown: pd.DataFrame, quantity: str, over: str, by: list[str], value: str, predicted: str,
    known: dict[tuple[Any, ...], fit.Fit | None],
) -> pd.DataFrame:  # fmt: skip
    """The points with `value`, `low`, `high` and `drawn_as`: measured, predicted or lost."""
    data = shown.copy()
    if quantity == "memory":
        data[value] = data[value].where(data[value] != 0, PAGE_BYTES)
    ok = (data["status"] == "ok") & (data[value] > 0)
    measured_low, measured_high = ("low_ns", "high_ns") if quantity == "time" else (value, value)
    data["value"] = data[value].where(ok)
    data["low"], data["high"] = data[measured_low].where(ok), data[measured_high].where(ok)
    data["drawn_as"] = np.where(ok, "measured", "lost")
    for i, row in data[~ok].iterrows():
        series = known.get(tuple(row[c] for c in by))
        guess = row[predicted]
        if not guess > 0 and series is not None:
            guess = float(series.at(row[over]))
        if guess > 0 and row["status"] in ("skipped", "timeout", "ok"):
            data.loc[i, ["value", "drawn_as"]] = [guess, "predicted"]
    return data.sort_values(over)


def _limits(data: pd.DataFrame) -> tuple[float, float]:
    values = data["value"].dropna()
    return values.min() / 2.5, values.max() * 2.5


def _panel(
    axes: Axes, own: pd.DataFrame, over: str, marks: dict[str, style.Mark],
    limits: tuple[float, float],
) -> set[str]:  # fmt: skip
    axes.set_ylim(*limits)
    kinds: set[str] = set()
    feet = 0
    for label, series in own.groupby("label", sort=False):
        mark = marks[label]
        done = series[series["drawn_as"] == "measured"]
        axes.plot(done[over], done["value"], color=mark.color, marker=mark.marker, ls=mark.dash)
        axes.vlines(done[over], done["low"], done["high"], color=mark.color, lw=2.2, alpha=0.35)
        guessed = series[series["drawn_as"] == "predicted"]
        if len(guessed):
            kinds.add("predicted")
            joined = pd.concat([done.tail(1), guessed])
            axes.plot(joined[over], joined["value"], color=mark.color, ls=":", lw=0.8)
            axes.plot(guessed[over], guessed["value"], color=mark.color, marker=mark.marker,
                      ls="none", mfc="none")  # fmt: skip
        lost = series[series["drawn_as"] == "lost"]
        if len(lost):
            kinds.add("lost")
            feet += 1  # one level a variant, so that losses at one size stay apart
            foot = [limits[0] * (limits[1] / limits[0]) ** (0.035 * feet)] * len(lost)
            axes.plot(lost[over], foot, color=mark.color, marker="x", ls="none", clip_on=False)
    return kinds


def _slopes(axes: Axes, own: pd.DataFrame, over: str, marks: dict[str, style.Mark]) -> float:
    """Draws them; the steepest."""
    steepest = 0.0
    for label, series in own[own["drawn_as"] == "measured"].groupby("label", sort=False):
        series = series.drop_duplicates(over)
        if len(series) < 2:
            continue
        n = series[over].to_numpy(float)
        slopes = fit.local_slopes(n, series["value"])
        steepest = max(steepest, slopes.max())
        mark = marks[label]
        axes.plot(np.sqrt(n[1:] * n[:-1]), slopes, color=mark.color, marker=mark.marker,
                  ls=mark.dash, ms=2.6, lw=0.9)  # fmt: skip
    return steepest


def _guides(axes: Axes, sizes: pd.Series, letter: str) -> None:
    """A small fan of slopes 1 and 2 in the upper left, which growing curves leave free."""
    low, high = axes.get_ylim()
    first, last = sizes.min(), sizes.max()
    n = np.array([first, first * (last / first) ** 0.3])
    rise = np.log((n[1] / n[0]) ** 2) / np.log(high / low)
    start = low * (high / low) ** min(0.95 - rise, 0.8)
    for power, name in ((1, letter), (2, f"{letter}²")):
        y = start * (n / n[0]) ** power
        axes.plot(n, y, color=style.FAINT, lw=0.6, zorder=0.5)
        axes.annotate(name, (n[1], y[1]), xytext=(2, 0), textcoords="offset points", va="center",
                      color=style.FAINT, fontsize="small")  # fmt: skip
    axes.set_ylim(low, high)
