# SPDX-License-Identifier: Apache-2.0
"""What a sweep says of scaling beside its exponents: threads, the physical model, and budgets.

Threads: S(p) = t(p0) / t(p), efficiency S / (p / p0), and the serial fraction that explains it,
e = (1/S - 1/p) / (1 - 1/p) (Karp and Flatt 1990, p counted in multiples of p0): constant over p
where a part of the work is serial, growing where overheads are.
Physical model: t = a + b n d^2 + c n^2 d over all n and d of one kernel at once: b is what a token
costs by itself (projections, packing), c what a pair does. It needs no exponent and shows where
n d^2 and n^2 d change places.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from attnbench import fit, variants
from attnbench.format import bytes_text, significant, time_text
from attnbench.tables import Table

FEWEST_POINTS = 6  # of the physical model: three parameters
_UNITS = {
    "time": {"ns": 1.0, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "min": 6e10, "h": 3.6e12},
    "memory": {"b": 1.0, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40},
}


def threads(summary: pd.DataFrame) -> pd.DataFrame:
    """Every variant and size that was measured at every thread count: a row a thread count.

    Columns of the summary, and: base (the label without the threads), speedup, efficiency, serial
    (nan at the fewest threads), all over the fewest threads. Empty where one count was run.
    """
    counts = sorted(int(t) for t in summary["threads"].unique())
    good = summary[summary["status"] == "ok"]
    if len(counts) < 2 or good.empty:
        return pd.DataFrame()
    good = good.assign(base=variants.labels(good.assign(threads=counts[0])))
    sizes = [s for s in variants.SIZES if s in good and good[s].notna().all()]
    rows = []
    for _, own in good.groupby(["base", *sizes], sort=False):
        if own["threads"].nunique() < len(counts):
            continue
        own = own.sort_values("threads")
        speedup = own["median_ns"].iloc[0] / own["median_ns"]
        times = own["threads"] / counts[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            serial = (1 / speedup - 1 / times) / (1 - 1 / times)
        rows.append(own.assign(speedup=speedup, efficiency=speedup / times, serial=serial))
    return pd.concat(rows) if rows else pd.DataFrame()


def largest_of_each(frame: pd.DataFrame) -> pd.DataFrame:
    """Of a frame of threads(): each variant's largest problem, by useful work."""
    if frame.empty:
        return frame
    most = frame.groupby("base")["useful_flops"].transform("max")
    return frame[frame["useful_flops"] == most]


def thread_table(summary: pd.DataFrame) -> Table:
    """Speed-up, efficiency and serial fraction, each variant at its largest problem."""
    data = largest_of_each(threads(summary))
    if data.empty:
        return Table([], [])
    header = ["kernel", "n", "d", "threads", "time", "speed-up", "efficiency", "serial fraction"]
    rows = [
        [row["base"], f"{row['keys']:.0f}", f"{row['head_dim']:.0f}", f"{row['threads']:.0f}",
         time_text(row["median_ns"]), significant(row["speedup"]),
         f"{100 * row['efficiency']:.0f} %",
         f"{row['serial']:.3f}" if np.isfinite(row["serial"]) else ""]
        for _, row in data.iterrows()
    ]  # fmt: skip
    return Table(header, rows)


def physical_table(summary: pd.DataFrame) -> Table:
    """t = a + b n d^2 + c n^2 d of every dense variant that was measured over both n and d; the
    share of n^2 d is that of the model's own time at the largest problem."""
    good = summary[(summary["status"] == "ok") & (summary["queries"] == summary["keys"])]
    good = good[good["pattern"] == "full"]
    rows = []
    by = [
        c for c in ("label", "heads", "kv_heads", "batch") if good[c].nunique() > 1 or c == "label"
    ]
    for _, own in good.groupby(by, sort=False):
        if len(own) < FEWEST_POINTS or min(own["keys"].nunique(), own["head_dim"].nunique()) < 2:
            continue
        n, d = own["keys"].to_numpy(float), own["head_dim"].to_numpy(float)
        time = own["median_ns"].to_numpy(float)
        a, b, c = fit.fit_shape(n, d, time)
        model = a + b * n * d**2 + c * n**2 * d
        error = np.abs(model / time - 1)
        largest = np.argmax(n * n * d)
        share = c * n[largest] ** 2 * d[largest] / model[largest]
        rows.append([
            own["label"].iloc[0], time_text(a), f"{b:.2e}", f"{c:.2e}", f"{100 * share:.0f} %",
            f"{b / c:.2g} d" if b > 0 and c > 0 else "", f"{100 * np.median(error):.0f} %",
            f"{100 * error.max():.0f} %",
        ])  # fmt: skip
    header = ["kernel", "a", "b [ns/nd²]", "c [ns/n²d]", "n²d share", "n²d leads from n",
              "error", "worst"]  # fmt: skip
    return Table(header, rows) if rows else Table([], [])


def parse_budget(text: str) -> tuple[str, float]:
    """ "1.5 s" -> ("time", 1.5e9); "8GiB" -> ("memory", 2**33). Raises ValueError."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*([a-zµ]+)\s*", text.lower())
    if found:
        for quantity, units in _UNITS.items():
            if found[2] not in units or found[1].count(".") > 1:
                continue
            amount = float(found[1]) * units[found[2]]
            if 0 < amount < np.inf:
                return quantity, amount
    raise ValueError(f"--budget '{text}': must be a time or a memory, as '1.5s', '200ms' or '8GiB'")


def budget_table(
    budget: str, time: pd.DataFrame, time_fits: list[fit.Fit | None],
    memory: pd.DataFrame, memory_fits: list[fit.Fit | None],
) -> Table:  # fmt: skip
    """The largest size that each series reaches within a budget of time or memory, by its fit."""
    quantity, limit = parse_budget(budget)
    table, fits = (time, time_fits) if quantity == "time" else (memory, memory_fits)
    by, over = table.attrs["by"], table.attrs["over"]
    shown = time_text(limit) if quantity == "time" else bytes_text(limit)
    rows = []
    for (_, row), fitted in zip(table.iterrows(), fits, strict=True):
        cells = [str(row[c]) for c in by]
        if fitted is None:
            rows.append([*cells, "", row["note"]])
            continue
        largest, low, high = fitted.largest_n(limit)
        beyond = largest / fitted.n_max
        times = f"{beyond:.1f}" if beyond < 10 else f"{beyond:.0f}"
        note = f"{times}× the sizes measured" if beyond > 1 else ""
        rows.append([*cells, f"{largest:.0f} [{low:.0f}, {high:.0f}]", note])
    return Table([*["kernel" if c == "label" else c for c in by], f"{over} in {shown} [95 %]",
                  "note"], rows)  # fmt: skip
