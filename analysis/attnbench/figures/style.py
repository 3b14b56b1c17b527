# SPDX-License-Identifier: Apache-2.0
"""How every figure looks: widths for one and two columns, a palette that colour-blind readers can
tell apart, one colour a kernel whatever the figure, a footer that states what was measured on."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attnbench import machine
from attnbench.format import bytes_text, time_text

WIDE_IN, COLUMN_IN = 7.0, 3.3
INK, FAINT, GRID = "#1b1d21", "#6b7079", "#d8dade"  # the report recolours these for dark pages

# Okabe and Ito (2008), without the yellow, which is too pale for lines on white; then Tol's muted.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00",
            "#882255", "#117733", "#332288", "#999933", "#AA4499", "#661100")  # fmt: skip
_MARKERS = "osD^vP*XhpdH"
# The kernels that reports compare most often never share a colour.
_FIXED = {"naive": 1, "blis_blocked": 5, "flash": 0, "local_window": 2, "sparse_strided": 3,
          "luong": 4, "bahdanau": 6, "split_keys": 8, "reference": 9,
          "self_attention": 0, "rnn": 5, "lstm": 1, "gru": 3, "convolution": 2}  # fmt: skip
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (7, 2)), (0, (2, 2)))


@dataclass
class Drawing:
    """A figure and the table that it shows."""

    figure: Figure
    data: pd.DataFrame


@dataclass(frozen=True)
class Mark:
    """How one variant is drawn, everywhere."""

    color: str
    marker: str
    dash: Any


def marks(frame: pd.DataFrame) -> dict[str, Mark]:
    """A mark for each label: colour and marker by kernel, dashes by variant of the kernel."""
    slots: dict[str, int] = {}
    for kernel in sorted(frame["kernel"].unique(), key=lambda k: (k not in _FIXED, k)):
        slot = _FIXED.get(kernel, zlib.crc32(kernel.encode()) % len(_PALETTE))
        free = [(slot + i) % len(_PALETTE) for i in range(len(_PALETTE))]
        slots[kernel] = next((s for s in free if s not in slots.values()), slot)
    made: dict[str, Mark] = {}
    for kernel, group in frame.groupby("kernel", sort=False):
        for i, label in enumerate(dict.fromkeys(group["label"])):
            slot = slots[kernel]
            made[label] = Mark(_PALETTE[slot], _MARKERS[slot], _DASHES[i % len(_DASHES)])
    return made


@contextmanager
def rc(width_in: float) -> Iterator[None]:
    """Publication settings: 7 to 8 point text at final size, embedded TrueType fonts."""
    small = 6.5 if width_in < 5 else 7.5
    with matplotlib.rc_context({
        "pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "path", "savefig.dpi": 200,
        "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": small,
        "axes.titlesize": small + 0.5, "axes.labelsize": small, "legend.fontsize": small - 0.5,
        "xtick.labelsize": small - 0.5, "ytick.labelsize": small - 0.5,
        "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK,
        "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": INK,
        "ytick.labelcolor": INK, "axes.titlecolor": INK, "axes.linewidth": 0.6,
        "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4, "lines.linewidth": 1.1, "lines.markersize": 3.4,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": GRID, "grid.linewidth": 0.5, "axes.axisbelow": True,
        "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none",
        "savefig.facecolor": "none", "axes.titleweight": "regular", "axes.titlelocation": "left",
        "hatch.linewidth": 0.6,
    }):  # fmt: skip
        yield


def canvas(
    width_in: float, rows: int = 1, columns: int = 1, panel_in: float = 2.4, **subplots: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns panels, each panel_in high; axes as a 2-d array."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width_in, panel_in * rows), squeeze=False,
        layout="constrained", **subplots,
    )  # fmt: skip
    return figure, axes


def finish(figure: Figure, frame: pd.DataFrame | str, handles: list[Any] | None = None) -> Figure:
    """Legend and footer in strips of their own under the panels; the figure grows by them. The
    footer is the machine of the records, or a text of one's own."""
    width = figure.get_figwidth()
    small = matplotlib.rcParams["legend.fontsize"]
    footer = frame if isinstance(frame, str) else machine.footer(frame, width)
    lines = _wrap(footer, int(width * 72 / (0.52 * (small - 0.5))))
    footer_in = ((small + 1.5) * (1 + lines.count("\n")) + 4) / 72
    legend_in, columns = 0.0, 1
    if handles:
        longest = max(len(h.get_label()) for h in handles)
        columns = max(1, min(len(handles), int(width * 72 / (small * (0.56 * longest + 4.4)))))
        legend_in = (-(-len(handles) // columns) * small * 1.42 + 6) / 72
    height = figure.get_figheight() + footer_in + legend_in
    figure.set_figheight(height)
    strip = (footer_in + legend_in) / height
    figure.get_layout_engine().set(rect=(0, strip, 1, 1 - strip))
    if handles:
        legend = figure.legend(
            handles=handles, loc="lower center", bbox_to_anchor=(0.5, footer_in / height),
            ncols=columns, handlelength=2.4, columnspacing=1.2, labelspacing=0.35,
            borderaxespad=0.0, borderpad=0.1,
        )  # fmt: skip
        legend.set_in_layout(False)
    figure.text(0.006, 2 / 72 / height, lines, fontsize=small - 0.8, color=FAINT, va="bottom",
                linespacing=1.25).set_in_layout(False)  # fmt: skip
    return figure


def handle(label: str, mark: Mark, **changes: Any) -> Any:
    """A legend entry."""
    from matplotlib.lines import Line2D

    settings = {"color": mark.color, "marker": mark.marker, "linestyle": mark.dash}
    return Line2D([], [], label=label, **(settings | changes))


def gap_handles(kinds: set[str]) -> list[Any]:
    """Legend entries of points that were not measured."""
    plain = Mark(FAINT, "o", "none")
    words = {"predicted": ("not measured: prediction", {"markerfacecolor": "none"}),
             "lost": ("failed, timed out or incorrect", {"marker": "x"})}  # fmt: skip
    return [handle(text, plain, **style) for kind, (text, style) in words.items() if kind in kinds]


def log_sizes(axes: Axes, values: Any, name: str) -> None:
    """A log2 axis ticked at the measured sizes, thinned so that labels do not touch."""
    sizes = sorted({float(v) for v in values})
    axes.set_xscale("log", base=2)
    width = axes.get_figure().get_figwidth() / max(axes.get_gridspec().ncols, 1)
    room = max(int(width / 0.45), 3)
    step = -(-len(sizes) // room)
    shown = sizes[::-1][::step][::-1]
    axes.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
    axes.set_xticks(shown, [size_text(v) for v in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(name)


def size_text(value: float) -> str:
    """1024 -> 1K where exact, so that ticks stay short."""
    whole = int(value)
    for unit, suffix in ((2**20, "M"), (2**10, "K")):
        if whole >= unit and whole % unit == 0:
            return f"{whole // unit}{suffix}"
    return f"{value:g}"


def unit_ticks(axes: Axes, text: Callable[[float], str], which: str = "y") -> None:
    """Tick labels with their unit (10 µs, 1 ms); 2 and 5 too where a decade is all there is."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    low, high = axis.get_view_interval()
    if low > 0 and axis.get_scale() == "log" and axis.get_transform().base == 10:
        narrow = np.log10(high / low) < 2.2
        axis.set_major_locator(
            matplotlib.ticker.LogLocator(10, subs=(1, 2, 5) if narrow else (1,), numticks=8)
        )
    elif low > 0 and axis.get_scale() == "log":  # bytes: powers of two at a round count of ticks
        step = max(1, round(np.log2(high / low) / 6))
        first = -(-int(np.ceil(np.log2(low))) // step) * step
        axis.set_ticks([2.0**k for k in range(first, int(np.log2(high)) + 1, step)])
        axis.set_ticks([], minor=True)
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda v, _: text(v)))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def short_time(ns: float) -> str:
    return _plain(time_text(ns))


def short_bytes(count: float) -> str:
    return _plain(bytes_text(count))


def _plain(text: str) -> str:
    """12.0 ms -> 12 ms: a tick is exact, its zeros say nothing."""
    number, _, unit = text.partition(" ")
    return f"{float(number):g} {unit}" if number else text


AXIS_NAMES = {"keys": "keys n", "queries": "queries", "head_dim": "head_dim d", "heads": "heads",
              "batch": "batch", "v_dim": "v_dim", "kv_heads": "kv_heads",
              "d_model": "model width d"}  # fmt: skip


def axis_name(frame: pd.DataFrame, column: str) -> str:
    if column in ("keys", "queries") and (frame["keys"] == frame["queries"]).all():
        return "sequence length n"
    return AXIS_NAMES.get(column, column)


def facet_keys(frame: pd.DataFrame, columns: list[str]) -> list[tuple[Any, ...]]:
    """The distinct levels of `columns`, ascending; one empty key where there are no columns."""
    if not columns:
        return [()]
    return list(
        frame[columns].drop_duplicates().sort_values(columns).itertuples(index=False, name=None)
    )


def facet(frame: pd.DataFrame, columns: list[str], key: tuple[Any, ...]) -> pd.DataFrame:
    """The rows of one key of facet_keys."""
    for column, level in zip(columns, key, strict=True):
        frame = frame[frame[column].isna() if pd.isna(level) else frame[column] == level]
    return frame


def facet_title(columns: list[str], key: tuple[Any, ...]) -> str:
    names = {
        "head_dim": "d",
        "d_model": "d",
        "keys": "n",
        "input_layer": "layer",
        "input_head": "head",
    }
    return ", ".join(
        f"{names.get(c, c)} = {v:g}" if isinstance(v, float) else f"{names.get(c, c)} = {v}"
        for c, v in zip(columns, key, strict=True)
    )


def save(drawing: Drawing, stem: Path, formats: tuple[str, ...] = ("pdf", "png")) -> list[Path]:
    """Writes stem.pdf, stem.png (on white); closes the figure."""
    written = []
    drawing.figure.draw_without_rendering()
    drawing.figure.set_layout_engine("none")  # solved once: it is most of the cost of a save
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        background = "none" if kind == "svg" else "white"
        with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": stem.name}):
            metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
            drawing.figure.savefig(path, facecolor=background, metadata=metadata, dpi=200)
        written.append(path)
    plt.close(drawing.figure)
    return written


def _wrap(text: str, width: int) -> str:
    lines, current = [], ""
    for part in text.replace("\n", " · ").split(" · "):
        joined = f"{current} · {part}" if current else part
        if len(joined) > width and current:
            lines.append(current)
            joined = part
        current = joined
    return "\n".join([*lines, current])
