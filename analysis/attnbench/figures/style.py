# SPDX-License-Identifier: Apache-2.0
"""How every figure looks: widths for one and two columns, a palette that colour-blind readers can
tell apart, one colour a kernel whatever the figure, a footer that states what was measured on."""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
import pandas as pd
from fontTools import subset
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from attnbench import machine
from attnbench.format import bytes_text, time_text

WIDE_IN, COLUMN_IN = 7.0, 3.3
PNG_DPI = 200
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

    def save(self, path: str | Path) -> list[Path]:
        """Writes the figure (.pdf, .png or .svg) and its data beside it as CSV.

        Raises ValueError on another suffix.
        """
        path = Path(path)
        if path.suffix[1:] not in _WRITERS:
            raise ValueError(f"path: '{path}' must end in .pdf, .png or .svg")
        data = path.with_suffix(".csv")
        self.data.to_csv(data, index=False)
        return [*save(self, path.with_suffix(""), (path.suffix[1:],)), data]

    def _repr_png_(self) -> bytes:  # what a notebook shows
        from io import BytesIO

        buffer = BytesIO()
        self.figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor="white")
        return buffer.getvalue()


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
    """A figure of rows x columns panels, each panel_in high; axes as a 2-d array. Not one of
    pyplot's, which keeps its figures until they are closed and shows them in notebooks again."""
    figure = Figure(figsize=(width_in, panel_in * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


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
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)  # canvas() made the figure
    engine.set(rect=(0, strip, 1, 1 - strip))
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
    room = max(int(_panel_in(axes) / 0.45), 3)
    step = -(-len(sizes) // room)
    shown = sizes[::-1][::step][::-1]
    axes.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
    axes.set_xticks(shown, [size_text(v) for v in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(name)


def _panel_in(axes: Axes) -> float:
    """A panel's share of the figure's width, in inches."""
    figure, grid = axes.get_figure(root=True), axes.get_gridspec()
    assert figure is not None
    return figure.get_figwidth() / (grid.ncols if grid else 1)


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
    if low > 0 and axis.get_scale() == "log" and getattr(axis.get_transform(), "base", 0) == 10:
        room = 2.2 if which == "y" else 0.5 * (_panel_in(axes) - 0.5)  # in decades
        subs = (1, 2, 5) if np.log10(high / low) < room else (1,)
        axis.set_major_locator(matplotlib.ticker.LogLocator(10, subs=subs, numticks=8))
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


def fitting(title: str, width_in: float) -> str:
    """The title in as many lines as it takes to stay within the width."""
    letters = int(width_in * 72 / (matplotlib.rcParams["axes.titlesize"] * 0.56))
    return "\n".join(textwrap.wrap(title, max(letters, 8)))


def beside(panel: Axes, x: float, row: float, words: str, color: str = INK) -> None:
    """Small words to the right of where a horizontal bar ends."""
    panel.annotate(words, (x, row), xytext=(3, 0), textcoords="offset points", va="center",
                   color=color, fontsize="small")  # fmt: skip


def row_labels(labels: list[str], width_in: float) -> tuple[list[str], float]:
    """The labels of rows beside a panel, in lines that leave it two thirds of the width, and how
    many times the height of one line the tallest takes."""
    made = [fitting(label, 0.34 * width_in) for label in labels]
    return made, 1 + 0.3 * max((label.count("\n") for label in made), default=0)


def facet_title(columns: list[str], key: tuple[Any, ...]) -> str:
    """ "n = 512, d = 64, layer 2, head 7, f32": what tells a panel from the others."""
    words = {"head_dim": "d = {}", "d_model": "d = {}", "keys": "n = {}", "input_layer": "layer {}",
             "input_head": "head {}", "machine": "{}", "run": "{}", "mask": "{}", "dtype": "{}"}  # fmt: skip
    values = (f"{v:g}" if isinstance(v, float) else v for v in key)
    return ", ".join(
        words.get(c, c + " = {}").format(v) for c, v in zip(columns, values, strict=True)
    )


def save(drawing: Drawing, stem: Path, formats: tuple[str, ...] = ("pdf", "png")) -> list[Path]:
    """Writes stem.pdf, stem.png (on white), stem.svg (clear, for the page)."""
    figure = drawing.figure
    settle(figure)
    written = []
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        figure.set_facecolor("none" if kind == "svg" else "white")
        with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": stem.name}):
            _WRITERS[kind](figure, path)
        written.append(path)
    return written


def svg_text(drawing: Drawing, name: str) -> str:
    """The figure as SVG with clear ground, for a page; ``name`` makes its identifiers its own."""
    from io import StringIO

    settle(drawing.figure)
    drawing.figure.set_facecolor("none")
    buffer = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        _WRITERS["svg"](drawing.figure, buffer)
    return buffer.getvalue()


def settle(figure: Figure) -> None:
    """Solves the layout, once for all formats: it is most of the cost of a save."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.set_dpi(PNG_DPI)  # coarser pixels round the widths of letters
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def onto_page(figure: Figure, page_in: tuple[float, float], left_in: float, top_in: float) -> None:
    """Puts a settled figure, in its size, onto a page: everything moves, nothing is scaled."""
    old, (width, height) = figure.get_size_inches(), page_in
    bottom_in = height - top_in - old[1]

    def moved(x: float, y: float) -> tuple[float, float]:
        return (x * old[0] + left_in) / width, (y * old[1] + bottom_in) / height

    boxes = [(axes, axes.get_position()) for axes in figure.axes]
    anchors = [
        (legend, legend.get_bbox_to_anchor().transformed(figure.transFigure.inverted()))
        for legend in figure.legends
    ]
    figure.set_size_inches(width, height)
    for axes, box in boxes:
        left, bottom = moved(box.x0, box.y0)
        axes.set_position((left, bottom, box.width * old[0] / width, box.height * old[1] / height))
    for legend, box in anchors:
        legend.set_bbox_to_anchor(moved(box.x0, box.y0), transform=figure.transFigure)
    for text in figure.texts:
        text.set_position(moved(*text.get_position()))


def _write_png(figure: Figure, path: Any) -> None:
    figure.set_dpi(PNG_DPI)
    FigureCanvasAgg(figure).print_png(path)


# The glyphs of a figure are placed already. To cut down the tables that would place them is two
# thirds of the time that the fonts of a PDF take.
subset.Options._drop_tables_default = [
    *subset.Options._drop_tables_default, "GDEF", "GPOS", "GSUB", "kern",
]  # fmt: skip
# Not figure.savefig, which draws everything a second time for a layout that is settled already.
_WRITERS: dict[str, Callable[[Figure, Any], None]] = {
    "pdf": lambda figure, path: FigureCanvasPdf(figure).print_pdf(
        path, metadata={"CreationDate": None}
    ),
    "svg": lambda figure, path: FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None}),
    "png": _write_png,
}


def _wrap(text: str, width: int) -> str:
    lines, current = [], ""
    for part in text.replace("\n", " · ").split(" · "):
        joined = f"{current} · {part}" if current else part
        if len(joined) > width and current:
            lines.append(current)
            joined = part
        current = joined
    return "\n".join([*lines, current])
