# SPDX-License-Identifier: Apache-2.0
"""`plot RUN --x keys --y time --group kernel --facet head_dim --where 'dtype == "f32"'`: any figure
from any record without writing Python. Columns are those of records.summarise (documented there)."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnbench import records
from attnbench.figures import style
from attnbench.format import reason

# Short names for the columns that people ask for, and how their axis reads.
COLUMNS = {
    "time": ("median_ns", "time", style.short_time),
    "memory": ("memory_bytes", "peak memory", style.short_bytes),
    "workspace": ("workspace_bytes", "workspace", style.short_bytes),
    "ceiling": ("fraction_of_ceiling", "share of the measured ceiling", lambda v: f"{100 * v:g} %"),
}


def plot(
    summary: pd.DataFrame, x: str = "keys", y: str = "time", group: str = "label",
    facet: str | None = None, where: str | None = None, width_in: float = style.WIDE_IN,
) -> style.Drawing:  # fmt: skip
    """Lines of y over x, one a value of `group`, one panel a value of `facet`.

    Cases without y are not dropped silently: the title of each panel counts them. Where several
    cases share x and group, the line goes through their median and each stands as a dot.
    Raises ValueError naming the argument that fits no column, or a selection that is empty.
    """
    chosen = summary
    if where:
        try:
            chosen = summary.query(where, engine="python")
        except Exception as error:  # pandas raises whatever the expression does
            raise ValueError(
                f"--where: {error} (compare with ==, put text into quotes: 'dtype == \"f32\"')"
            ) from error
    column, name, text = COLUMNS.get(y, (y, y, lambda v: f"{v:g}"))
    for option, value in (("--x", x), ("--y", column), ("--group", group), ("--facet", facet)):
        if value is not None and value not in chosen:
            names = list(map(str, chosen))
            near = difflib.get_close_matches(str(value), names, 3)
            there = f"near: {', '.join(near)}" if near else f"there are: {', '.join(names)}"
            raise ValueError(f"{option}: no column '{value}'; {there}")
    if not pd.api.types.is_numeric_dtype(chosen[column]):
        raise ValueError(f"--y: column '{column}' holds no numbers")
    if chosen[column].notna().sum() == 0:
        raise ValueError("--where: no case with that figure is left")
    levels = [None] if facet is None else sorted(chosen[facet].dropna().unique())
    across = min(len(levels), 3 if width_in > 5 else 1)
    down = -(-len(levels) // across)
    with style.rc(width_in):
        figure, axes = style.canvas(width_in, down, across, 2.3, sharey=True)
        marks = _marks(chosen, group)
        numeric = pd.api.types.is_numeric_dtype(chosen[x])
        for i, level in enumerate(levels):
            panel = axes[i // across][i % across]
            own = chosen if level is None else chosen[chosen[facet] == level]
            lost = int(own[column].isna().sum())
            title = style.facet_title([facet], (level,)) if facet else ""
            panel.set_title(title + (f" ({lost} cases without a figure)" if lost else ""))
            own = own[own[column].notna()]
            for value, series in own.groupby(group, sort=False):
                mark = marks[value]
                line = series.groupby(x)[column].median()
                panel.plot(line.index, line, color=mark.color, marker=mark.marker, ls=mark.dash)
                if len(series) > len(line):
                    panel.plot(series[x], series[column], color=mark.color, marker=".", ls="none",
                               alpha=0.4)  # fmt: skip
            values = chosen[column].dropna()
            if (values > 0).all() and values.max() > 8 * values.min():
                panel.set_yscale("log", base=2 if text is style.short_bytes else 10)
            style.unit_ticks(panel, text)
            if numeric and len(own) and own[x].min() > 0 and own[x].max() >= 8 * own[x].min():
                style.log_sizes(panel, own[x], style.axis_name(chosen, x))
            else:
                panel.set_xlabel(style.axis_name(chosen, x))
        for i in range(len(levels), across * down):
            axes[i // across][i % across].set_axis_off()
        for row in axes:
            row[0].set_ylabel(name)
        handles = [style.handle(str(value), mark) for value, mark in marks.items()]
        style.finish(figure, chosen, handles if len(handles) > 1 else None)
    columns = list(dict.fromkeys([x, group, *([facet] if facet else []), "status", column]))
    return style.Drawing(figure, chosen[columns])


def _marks(frame: pd.DataFrame, group: str) -> Mapping[Any, style.Mark]:
    """A kernel's or variant's own mark; anything else takes the palette in order."""
    if group == "label":
        return dict(style.marks(frame))
    if group == "kernel":
        return dict(style.marks(frame.assign(label=frame["kernel"])))
    values = pd.Series(frame[group].unique())
    stand_in = pd.DataFrame({"kernel": [f"{i:03d}" for i in range(len(values))]})
    stand_in["label"] = stand_in["kernel"]
    found = list(style.marks(stand_in).values())
    return dict(zip(np.sort(values) if values.dtype != object else values, found, strict=True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directory")
    parser.add_argument("--x", default="keys", help="column across (default: keys)")
    parser.add_argument(
        "--y", default="time", help=f"column up: {', '.join(COLUMNS)} or any (default: time)"
    )
    parser.add_argument("--group", default="label", help="column of the lines (default: label)")
    parser.add_argument("--facet", help="column of the panels")
    parser.add_argument("--where", metavar="EXPR", help="keep cases for which this holds")
    parser.add_argument(
        "--width", type=float, default=style.WIDE_IN, help="inches (default: 7; one column: 3.3)"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE",
        help=".pdf, .png or .svg (default: figures/plot-Y-X in the first run, PDF and PNG)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    try:
        if not 1 <= args.width <= 40:
            raise ValueError("--width: must be between 1 and 40 inches")
        summary = records.summarise(records.load(args.runs))
        drawing = plot(summary, args.x, args.y, args.group, args.facet, args.where, args.width)
        if args.output:
            stem, kind = Path(args.output).with_suffix(""), Path(args.output).suffix[1:]
            kinds: tuple[str, ...] = (kind,)
            if kind not in ("pdf", "png", "svg"):
                raise ValueError(f"--output: '{args.output}' must end in .pdf, .png or .svg")
        else:
            stem, kinds = Path(args.runs[0]) / "figures" / f"plot-{args.y}-{args.x}", ("pdf", "png")
        stem.parent.mkdir(parents=True, exist_ok=True)
        drawing.data.to_csv(f"{stem}.csv", index=False)
        written = style.save(drawing, stem, kinds)
    except (ValueError, OSError) as error:
        print(f"attnbench plot: {reason(error)}", file=sys.stderr)
        return 2
    print(f"Wrote {', '.join(map(str, written))} and {stem}.csv")
    return 0
