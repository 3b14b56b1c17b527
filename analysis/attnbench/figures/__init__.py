# SPDX-License-Identifier: Apache-2.0
"""Figures of a run, one idea a file. Each takes (records, summary, width_in) and gives a Drawing
(the figure and the table that it shows), or None where the run has nothing to show of its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import pandas as pd

matplotlib.use("Agg")  # reports are written, never shown in a window

from attnbench.figures import (
    exactness,
    gaps,
    growth,
    roofline,
    sizes,
    speedup,
    style,
    threads,
)
from attnbench.figures.style import COLUMN_IN, WIDE_IN, Drawing

__all__ = ["COLUMN_IN", "FIGURES", "WIDE_IN", "Drawing", "Figure", "draw"]

Draw = Callable[[pd.DataFrame, pd.DataFrame, float], Drawing | None]


@dataclass(frozen=True)
class Figure:
    name: str  # the file's stem
    title: str
    caption: str
    draw: Draw


FIGURES = (
    Figure(
        "time", "Time",
        "Median time of one run, log-log; the thick strokes are 95 % intervals over rounds. Below,"
        " the local slope between neighbouring sizes: where it settles is the exponent.",
        growth.time,
    ),
    Figure(
        "time_by_width", "Time against width",
        "The same against the second size that was swept.",
        growth.time_by_second_size,
    ),
    Figure(
        "memory", "Memory",
        "Peak memory of one run above what the process held before it, log-log, with local"
        " slopes; no new page at all is drawn as one.",
        growth.memory,
    ),
    Figure(
        "speedup", "Speed-up",
        "Time of the baseline over time of each variant, at the largest size at which the baseline"
        " was measured. A hatched bar solves another problem (mask or score).",
        speedup.speedup,
    ),
    Figure(
        "roofline", "Roofline",
        "Useful work only, under roofs measured beside the cases. Filled: the largest size.",
        roofline.roofline,
    ),
    Figure(
        "exactness", "Error beside time",
        "Every case a dot. Error against a float64 oracle; the grey strokes are the tolerances.",
        exactness.exactness,
    ),
    Figure(
        "sizes", "Length and width",
        "Useful GFLOP/s over sequence length and head dimension, one scale for all variants.",
        sizes.sizes,
    ),
    Figure(
        "threads", "Threads", "Speed-up of each variant's largest case over the fewest threads.",
        threads.threads,
    ),
    Figure(
        "gaps", "What was not measured", "Every case without a figure, with its reason.", gaps.gaps,
    ),
)  # fmt: skip


def draw(
    figure: Figure, records: pd.DataFrame, summary: pd.DataFrame, width_in: float = WIDE_IN
) -> Drawing | None:
    """Draws one figure in the publication style."""
    with style.rc(width_in):
        return figure.draw(records, summary, width_in)
