# SPDX-License-Identifier: Apache-2.0
"""The tables of a report as (header, rows) of text: what the terminal, HTML and LaTeX all print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from attnbench import fit, machine, peers, variants
from attnbench.figures import _gaps, _roofline
from attnbench.format import (
    bytes_text,
    error_text,
    exponent_text,
    significant,
    time_text,
    time_with_interval,
)
from attnbench.variants import SIZES

MOST_UNFITTED = 4  # rows that only say that there is no fit


class Table(NamedTuple):
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


_HEADS = {
    "keys": "n",
    "head_dim": "d",
    "d_model": "d",
    "input_layer": "layer",
    "input_head": "head",
}


def size_columns(summary: pd.DataFrame) -> list[str]:
    """n and d always, the other sizes where they vary and do not just follow another."""

    widths = (c for c in ("head_dim", "d_model") if c in summary and summary[c].notna().any())
    shown = {"keys", *widths, *variants.telling(summary, SIZES)}
    return [c for c in SIZES if c in shown]


def results(summary: pd.DataFrame) -> Table:
    """kernel, sizes, time with its interval, GFLOP/s, % of ceiling, memory, error; a case a row."""
    sizes = size_columns(summary)
    header = ["kernel", *(_HEADS.get(s, s) for s in sizes), "time [95 %]", "GFLOP/s", "% ceil",
              "memory", "error"]  # fmt: skip
    rows = []
    for _, row in summary.iterrows():
        time = time_with_interval(row["median_ns"], row["low_ns"], row["high_ns"])
        rows.append([
            row["label"], *(f"{row[s]:.0f}" if pd.notna(row[s]) else "" for s in sizes),
            time if row["status"] == "ok" else row["status"],
            significant(row["gflops"]) if row["status"] == "ok" else "",
            f"{100 * row['fraction_of_ceiling']:.0f}" if row["fraction_of_ceiling"] > 0 else "",
            bytes_text(row["memory_bytes"]), error_text(row["error"]),
        ])  # fmt: skip
    return Table(header, rows)


def digest(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows at the largest measured size of each series; a series without any keeps its last."""
    over = fit.growth_axis(summary)
    by = fit.series_columns(summary, over)
    kept = []
    for _, series in fit.grown(summary, by, over).groupby(by, sort=False, dropna=False):
        good = series[series["status"] == "ok"]
        kept.append((good if len(good) else series).nlargest(1, over).index[0])
    return summary.loc[kept]


def exponents(time: pd.DataFrame, memory: pd.DataFrame) -> Table:
    """Fitted growth of time and memory, a series a row, from two tables of fit.fit_summary. A series
    of a single size has none and is left out; so are those of unfitted()."""
    by, over = time.attrs["by"], time.attrs["over"]
    unit = "n" if over == "keys" else _HEADS.get(over, over)
    header = ["kernel", *(_HEADS.get(c, c) for c in by[1:]), f"time {unit}^p [95 %]",
              "last slope", f"memory {unit}^p [95 %]", "last slope", f"{unit} (sizes)"]  # fmt: skip
    known = {tuple(row[c] for c in by): row for _, row in memory.iterrows()}
    rows = []
    folded = bool(unfitted(time))
    for _, row in time.iterrows():
        if row["sizes"] < (fit.FEWEST_SIZES if folded else 2):
            continue
        other = known.get(tuple(row[c] for c in by))
        cells = [str(row[c]) for c in by]
        for one in (row, other):
            if one is None or not one["sizes"]:
                cells += ["", ""]
                continue
            fitted = exponent_text(one["exponent"], one["low"], one["high"])
            cells += [fitted or ("no fit" if one["sizes"] < fit.FEWEST_SIZES else one["note"]),
                      f"{one['last_slope']:.2f}" if np.isfinite(one["last_slope"]) else ""]  # fmt: skip
        star = "*" if row["provisional"] else ""
        cells.append(f"{row['n_min']:.0f}..{row['n_max']:.0f} ({row['sizes']}{star})")
        rows.append(cells)
    return Table(header, rows)


def unfitted(time: pd.DataFrame) -> str:
    """One line for the series that have too few sizes for a fit, where exponents() leaves them out:
    they are many, or there are no others. Else empty."""
    if time.empty:  # nothing was measured
        return ""
    few = time[(time["sizes"] > 1) & (time["sizes"] < fit.FEWEST_SIZES)]["sizes"]
    if not len(few) or (len(few) <= MOST_UNFITTED and (time["sizes"] >= fit.FEWEST_SIZES).any()):
        return ""
    over = time.attrs["over"]
    sizes = " or ".join(str(count) for count in sorted(few.unique()))
    return (
        f"No exponent of {len(few)} series, measured at {sizes} sizes of"
        f" {'n' if over == 'keys' else over}: a fit needs {fit.FEWEST_SIZES}."
    )


def crossings(time: pd.DataFrame, fits: list[fit.Fit | None]) -> Table:
    """Pairs of variants of one facet that change places, within or not far beyond the sizes."""
    by = time.attrs["by"]
    rows = []
    for i, (_, first) in enumerate(time.iterrows()):
        for j, (_, second) in enumerate(time.iterrows()):
            same = i < j and all(first[c] == second[c] for c in [*by[1:], "source"])
            a, b = fits[i], fits[j]
            if not same or a is None or b is None:
                continue
            found = fit.crossover(a, b)
            if found is None or found["n"] > 8 * max(a.n_max, b.n_max) or found["share"] < 0.9:
                continue
            beyond = 2 * max(found["n"], a.n_max)
            winner, loser = (first, second) if a.at(beyond) < b.at(beyond) else (second, first)
            rows.append([
                winner["label"], loser["label"], *(str(first[c]) for c in by[1:]),
                f"{found['n']:.0f} [{found['low']:.0f}, {found['high']:.0f}]",
                "extrapolated" if found["extrapolated"] else "",
            ])  # fmt: skip
    header = [
        "faster from here on",
        "than",
        *(_HEADS.get(c, c) for c in by[1:]),
        "n [95 %]",
        "note",
    ]
    return Table(header, rows)


def gap_table(summary: pd.DataFrame) -> Table:
    """Cases that were not (wholly) measured, with their reasons."""
    data = _gaps.table(summary)
    header = ["kernel", "status", "cases", "sizes", "reason"]
    return Table(header, [[str(row[c]) for c in data.columns] for _, row in data.iterrows()])


def peer_table(records: pd.DataFrame, summary: pd.DataFrame) -> Table:
    """The best of ours against the best peer, problem by problem; no rows where there are none."""
    data = peers.against_peers(records, summary)
    if data.empty:
        return Table([], [])
    sizes = size_columns(summary)
    extra = [c for c in ("dtype", "threads") if data[c].nunique() > 1]
    header = [*(_HEADS.get(s, s) for s in sizes), "mask", *extra, "best of ours", "time",
              "best peer", "time", "time, ours / peer [95 %]"]  # fmt: skip
    rows = []
    for _, row in data.iterrows():
        ratio = significant(row["ratio"])
        if np.isfinite(row["low"]):
            ratio += f" [{significant(row['low'])}, {significant(row['high'])}]"
        rows.append([
            *(f"{row[s]:.0f}" if pd.notna(row[s]) else "" for s in sizes), row["mask"] or "full",
            *(str(row[c]) for c in extra), row["ours"] or "none", time_text(row["ours_ns"]),
            row["peer"] or "none", time_text(row["peer_ns"]), ratio,
        ])  # fmt: skip
    return Table(header, rows)


def machine_table(summary: pd.DataFrame) -> Table:
    """The machines of a report and their measured roofs; no rows where there is one."""
    frame, machines = variants.by_machine(summary)
    if not machines:
        return Table([], [])
    rows = []
    for name, own in frame.groupby("machine", sort=False):
        environments = [summary.attrs["environments"][s] for s in own["source"].unique()]
        parts = [part for e in environments for part in machine.each_part(e)]
        peaks = own.groupby(["dtype", "threads"])["ceiling_gflops"].median().dropna()
        roofs = [f"{dtype}, {n} thread{'s' * (n > 1)}: {p:.0f}" for (dtype, n), p in peaks.items()]
        memory = [_roofline.bandwidths(e, int(own["threads"].min())) for e in environments]
        gbps = ", ".join(f"{m['DRAM']:.3g}" for m in memory if "DRAM" in m)
        rows.append([str(name), machine.cpu(parts[0]), str(machine.cpus(parts[0]) or ""),
                     str(len(parts)), f"{(own['status'] == 'ok').sum()} of {len(own)}",
                     "; ".join(roofs), gbps])  # fmt: skip
    header = ["machine", "processor", "CPUs", "runs", "measured", "peak GFLOP/s", "DRAM GB/s"]
    return Table(header, rows)


def facts(summary: pd.DataFrame) -> dict[str, Any]:
    """Counts for a headline: cases, measured, by status."""
    return {"cases": len(summary), **summary["status"].value_counts().to_dict()}


__all__ = ["Table", "crossings", "digest", "exponents", "facts", "gap_table",
           "machine_table", "peer_table", "results", "size_columns", "unfitted"]  # fmt: skip
