# SPDX-License-Identifier: Apache-2.0
"""Figures of a run, one idea a file, and each as a function on what ``attnbench.load`` gives::

    run = attnbench.load("results/quick/machine/time")
    attnbench.figures.time(run[run.head_dim == 64], width_in=3.3).save("time.pdf")

A function takes the records (or a selection of their rows) and gives a ``Drawing``: the matplotlib
figure and the table that it shows. A selection that has nothing to show of its kind is a
``ValueError`` that says what the figure needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import pandas as pd

matplotlib.use("Agg")  # reports are written, never shown in a window

from attnbench.figures import (
    _exactness,
    _gaps,
    _growth,
    _options,
    _peers,
    _roofline,
    _sizes,
    _speedup,
    _threads,
    style,
)
from attnbench.figures.style import COLUMN_IN, WIDE_IN, Drawing

__all__ = [
    "COLUMN_IN", "FIGURES", "WIDE_IN", "Drawing", "Figure", "draw", "exactness", "gaps", "memory",
    "options", "peers", "roofline", "sizes", "speedup", "threads", "time", "time_by_width",
]  # fmt: skip

Draw = Callable[[pd.DataFrame, pd.DataFrame, float], Drawing | None]


@dataclass(frozen=True)
class Figure:
    name: str  # the file's stem
    title: str
    caption: str
    needs: str  # what a run must have for it
    draw: Draw


FIGURES = (
    Figure(
        "time", "Time",
        "Median time of one run, log-log; the thick strokes are 95 % intervals over rounds, the"
        " exponents in the legend those of a + b·n^p. Below, the local slope between neighbouring"
        " sizes: where it settles is the exponent.",
        "measured cases of three sizes", _growth.time,
    ),
    Figure(
        "time_by_width", "Time against width",
        "The same against the second size that was swept.",
        "measured cases of four values of a second size", _growth.time_by_second_size,
    ),
    Figure(
        "memory", "Memory",
        "Peak memory of one run above what the process held before it, log-log, with local"
        " slopes; no new page at all is drawn as one.",
        "cases of three sizes with their peak memory", _growth.memory,
    ),
    Figure(
        "speedup", "Speed-up",
        "Time of the baseline over time of each variant, at the largest size at which the baseline"
        " was measured. A hatched bar solves another problem (mask, score or layer).",
        "two variants, of which the baseline was measured; beside peers, a baseline that is named",
        _speedup.speedup,
    ),
    Figure(
        "options", "What options are worth",
        "Speed of a kernel with one option or more set otherwise, in per cent over its speed with"
        " the usual options, problem by problem: what is left of the line is slower. Usual is what"
        " most of a kernel's settings in the run have; the strokes are 95 % intervals over rounds.",
        "a kernel measured with its usual options and with others", _options.options,
    ),
    Figure(
        "peers", "Against peers",
        "Speed of each kernel over that of the fastest peer, problem by problem (the line; to its"
        " right is faster), with 95 % intervals over rounds, and its share of the measured ceiling."
        " Peers are the kernels hosted in Python.",
        "problems that both kernels of ours and peers solved", _peers.peers,
    ),
    Figure(
        "roofline", "Roofline",
        "Useful work only, under roofs measured beside the cases. Filled: the largest size.",
        "measured cases with a ceiling beside them", _roofline.roofline,
    ),
    Figure(
        "exactness", "Error beside time",
        "Every case a dot. Error against a float64 oracle; the grey strokes are the tolerances.",
        "cases that were compared with the oracle", _exactness.exactness,
    ),
    Figure(
        "sizes", "Length and width",
        "Useful GFLOP/s over sequence length and head dimension, one scale for all variants.",
        "cases of two lengths and two head dimensions", _sizes.sizes,
    ),
    Figure(
        "threads", "Threads", "Speed-up of each variant's largest case over the fewest threads.",
        "cases measured at two thread counts", _threads.threads,
    ),
    Figure(
        "gaps", "What was not measured", "Every case without a figure, with its reason.",
        "a case that was not measured", _gaps.gaps,
    ),
)  # fmt: skip
_BY_NAME = {figure.name: figure for figure in FIGURES}


def draw(
    figure: Figure | str, records: pd.DataFrame, summary: pd.DataFrame, width_in: float = WIDE_IN,
    baseline: str | None = None,
) -> Drawing | None:  # fmt: skip
    """Draws one figure in the publication style; None where the run has nothing of its kind.

    ``summary`` is ``records.summarise(records)``. ``baseline``: the label that speed-ups are over.
    """
    figure = _BY_NAME[figure] if isinstance(figure, str) else figure
    with style.rc(width_in):
        if figure.name == "speedup" and baseline:
            return _speedup.speedup(records, summary, width_in, baseline)
        return figure.draw(records, summary, width_in)


def _drawn(name: str, run: pd.DataFrame, width_in: float, baseline: str | None = None) -> Drawing:
    from attnbench import records

    if not 1 <= width_in <= 40:
        raise ValueError(f"width_in: must be between 1 and 40 inches, is {width_in:g}")
    if "source" not in getattr(run, "columns", ()):
        raise ValueError("run: must be what attnbench.load gives, or a selection of its rows")
    summary = records.summarise(run)
    if baseline and baseline not in set(summary["label"]):
        known = "; ".join(dict.fromkeys(summary["label"]))
        raise ValueError(f"baseline: no variant '{baseline}'; there are: {known}")
    drawing = draw(name, run, summary, width_in, baseline)
    if drawing is None:
        raise ValueError(f"run: the figure '{name}' needs {_BY_NAME[name].needs}")
    return drawing


def time(run: pd.DataFrame, width_in: float = WIDE_IN) -> Drawing:
    """Time a run against the swept size, log-log, with fitted exponents and local slopes."""
    return _drawn("time", run, width_in)


def time_by_width(run: pd.DataFrame, width_in: float = WIDE_IN) -> Drawing:
    """Time a run against the second size that was swept."""
    return _drawn("time_by_width", run, width_in)


def memory(run: pd.DataFrame, width_in: float = WIDE_IN) -> Drawing:
    """Peak memory against the swept size, log-log, with local slopes."""
    return _drawn("memory", run, width_in)


def speedup(run: pd.DataFrame, width_in: float = WIDE_IN, baseline: str | None = None) -> Drawing:
    """Bars of speed-up over ``baseline``, a label of the summary; else naive, or the slowest."""
    return _drawn("speedup", run, width_in, baseline)


def options(run: pd.DataFrame, width_in: float = WIDE_IN) -> Drawing:
    """Bars of what each option of a kernel is worth, a panel a problem."""
    return _drawn("options", run, width_in)


def peers(run: pd.DataFrame, width_in: float = WIDE_IN) -> Drawing:
    """Bars of speed over that of the fastest peer, a panel a problem."""
    return _drawn("peers", run, width_in)


def roofline(run: pd.DataFrame, width_in: float = WIDE_IN) -> Drawing:
    """Useful GFLOP/s against useful flop/byte, under roofs measured beside the cases."""
    return _drawn("roofline", run, width_in)


def exactness(run: pd.DataFrame, width_in: float = WIDE_IN) -> Drawing:
    """Error against the oracle beside time a useful GFLOP, every case a dot."""
    return _drawn("exactness", run, width_in)


def sizes(run: pd.DataFrame, width_in: float = WIDE_IN) -> Drawing:
    """Useful GFLOP/s over keys and head_dim, a panel a variant."""
    return _drawn("sizes", run, width_in)


def threads(run: pd.DataFrame, width_in: float = WIDE_IN) -> Drawing:
    """Speed-up of each variant's largest case over the fewest threads, beside the ideal."""
    return _drawn("threads", run, width_in)


def gaps(run: pd.DataFrame, width_in: float = WIDE_IN) -> Drawing:
    """The table of skipped, refused, failed cases with their reasons."""
    return _drawn("gaps", run, width_in)
