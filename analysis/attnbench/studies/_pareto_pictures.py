# SPDX-License-Identifier: Apache-2.0
"""The figures of the study pareto: lost mass against keys and time, by layer, by head, and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patches import Patch

from attnbench import _core, machine, sparsity, transformer
from attnbench.figures import style
from attnbench.sparsity import CHOSEN, CONTROLS, FAMILIES
from attnbench.studies import Picture
from attnbench.studies._pareto_measures import SHOWN
from attnbench.studies._pareto_models import Other

_COARSE = 4  # tokens a side of a cell in the maps: the largest weight of 16
_DOTTED = (0, (1, 1.2))

MARKS = {
    "dense": style.Mark("#0072B2", "o", "-"),
    "local": style.Mark("#009E73", "^", "-"),
    "sinks + local": style.Mark("#D55E00", "s", "-"),
    "columns": style.Mark("#56B4E9", "D", (0, (4, 1.5))),
    "columns with key 0": style.Mark("#332288", "v", (0, (4, 1.5))),
    "strided": style.Mark("#CC79A7", "P", (0, (5, 1, 1, 1))),
    "fixed": style.Mark("#882255", "X", (0, (5, 1, 1, 1))),
    "dilated": style.Mark("#E69F00", "h", (0, (7, 2))),
    "global + local": style.Mark("#117733", "<", (0, (7, 2))),
    "BigBird": style.Mark("#999933", "p", (0, (3, 1))),
    CHOSEN: style.Mark("#AA4499", "*", "-"),
    "best keys": style.Mark("#1b1d21", "", "-"),
    "best columns": style.Mark("#6b7079", "", (0, (4, 1.5))),
    "random keys": style.Mark("#6b7079", "", _DOTTED),
}


def draw(
    real: pd.DataFrame, table: pd.DataFrame, blank: pd.DataFrame, grown: pd.DataFrame,
    layers: Sequence[Any], count: int,
) -> list[Picture]:  # fmt: skip
    """All figures. ``real``: a row a head; ``table``, ``blank``: medians on the text and on noise;
    ``grown``: by length; ``layers``: of ``count`` passages, one after the other."""
    footer = f"MiniLM, {layers[0].q.shape[2]} tokens, {len(layers) * layers[0].q.shape[1]} heads"
    footer += f" ({count} passages)" if count > 1 else ""
    depth = len(layers) // count
    real = real.assign(layer=real["layer"] % depth)
    return [
        _overview(table, blank, footer),
        _by_layer(real, table, f"{footer}; medians over each layer's heads"),
        _by_head(real, footer),
        _by_length(grown, depth * layers[0].q.shape[1]),
        _masks(layers[:depth], real),
    ]


def _timed() -> str:
    """What the footer of a figure with times says of them."""
    return f" · f32, one thread, {machine.cpu(_core.environment())}"


def _handles(names: Sequence[str]) -> list[Any]:
    return [style.handle(name, MARKS[name]) for name in MARKS if name in names]


def _frontier(at: Axes, rows: pd.DataFrame, loss: np.ndarray) -> None:
    """A loss against time: what is not dominated in colour and joined, the rest grey."""
    order = np.argsort(rows["time_ns"].to_numpy(float))
    order = order[rows["time_ns"].notna().to_numpy()[order]]
    time, loss = rows["time_ns"].to_numpy(float)[order], np.asarray(loss, float)[order]
    best = sparsity.frontier(time, loss)
    at.step(time[best], loss[best], where="post", color=style.FAINT, lw=0.8)
    for name, x, y, on in zip(rows["pattern"].to_numpy()[order], time, loss, best):
        mark = MARKS[name]
        at.plot(x, y, mark.marker, color=mark.color if on else style.FAINT,
                alpha=1 if on else 0.35, zorder=3 if on else 2)  # fmt: skip
    top = max(1.0, *at.get_ylim(), 1.03 * loss.max())  # of axes that share it, the most
    at.set_ylim(-0.03, top)
    at.set_xlim(0, time.max() * 1.08)
    style.unit_ticks(at, lambda ns: style.short_time(ns) if ns else "0", "x")


def _overview(table: pd.DataFrame, blank: pd.DataFrame, footer: str) -> Picture:
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, 2, 2, 2.2)
        for at, rows, title in zip(axes[0], (table, blank), ("a text", "Gaussian Q, K")):
            for name in (*FAMILIES, CHOSEN, *CONTROLS):
                own, mark = rows[rows["pattern"] == name], MARKS[name]
                at.plot(own["keys"], 1 - own["recall"], color=mark.color, marker=mark.marker,
                        ls=mark.dash)  # fmt: skip
            style.log_sizes(at, sorted(rows["budget"].unique())[:-1], "keys a row")
            at.set_ylim(-0.03, 1)
            at.set_title(title)
        axes[0, 0].set_ylabel("lost mass")
        for at, loss, label in (
            (axes[1, 0], 1 - table["recall"], "lost mass"),
            (axes[1, 1], table["error"], "relative error of the output"),
        ):
            _frontier(at, table, loss)
            at.set_xlabel("time of a layer's attention")
            at.set_title(f"a text: {label} by time")
            at.set_ylabel(label)
        style.finish(figure, f"{footer}; medians over heads{_timed()}", _handles(list(MARKS)))
    return Picture(
        "pareto", figure, "Attention mass that a pattern loses, by the keys that it admits, on a real"
        " text and on noise; below, mass and error by its kernel's time, with the frontier drawn and"
        " what another point dominates in grey. Chosen blocks are timed with their choice; no kernel"
        " serves the controls: they have no time.",
    )  # fmt: skip


def _by_layer(real: pd.DataFrame, table: pd.DataFrame, footer: str) -> Picture:
    figure = _layers(real, table, footer, 3)
    return Picture(
        "layers", figure, "Lost mass against time in each layer: what may be left out is a matter of"
        " the layer. Dominated points are grey.",
    )  # fmt: skip


def other(name: str, one: Other) -> Picture:
    """As of MiniLM, of another model."""
    of = one.table[one.table["pattern"] != "dense"]["budget"].unique()
    footer = f"{one.words}, {one.size.n} tokens{', causal' if one.size.causal else ''}"
    footer += f", {one.size.heads} heads a layer; medians over each layer's heads; about "
    footer += f"{', '.join(map(str, sorted(of)))} keys a row"
    depth = one.real["layer"].nunique()
    return Picture(
        f"layers_{name}", _layers(one.real, one.table, footer, min(depth, 4)),
        f"Lost mass against time in each layer of {one.words}. Dominated points are grey.",
    )  # fmt: skip


def _layers(real: pd.DataFrame, table: pd.DataFrame, footer: str, columns: int) -> Any:
    """A panel a layer."""
    time = table.set_index(["pattern", "budget"])["time_ns"]
    layers = sorted(real["layer"].unique())
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, -(-len(layers) // columns), columns, 1.9,
                                    sharex=True, sharey=True)  # fmt: skip
        for at, layer in zip(axes.flat, layers):
            own = real[real["layer"] == layer].groupby(["pattern", "budget"], sort=False)["recall"]
            rows = own.median().to_frame().join(time).reset_index()
            dense = table[table["pattern"] == "dense"][["pattern", "budget", "recall", "time_ns"]]
            rows = pd.concat([rows, dense], ignore_index=True)
            _frontier(at, rows, 1 - rows["recall"])
            at.set_title(f"layer {layer}")
        for at in axes[:, 0]:
            at.set_ylabel("lost mass")
        for at in axes[-1]:
            at.set_xlabel("time of the layer's attention")
        drawn = set(table[table["time_ns"].notna()]["pattern"])
        return style.finish(figure, footer + _timed(), _handles(list(drawn)))


def _by_head(real: pd.DataFrame, footer: str) -> Picture:
    rows = real[real["budget"] == SHOWN]
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, 1, 2, 2.4, sharey=True)
        for at, column, title in zip(
            axes[0], ("recall", "recall_p5"), ("mean over rows", "5th percentile of rows")
        ):
            for name, group in rows.groupby("pattern", sort=False):
                values, mark = np.sort(group[column])[::-1], MARKS[name]
                at.plot(np.arange(1, len(values) + 1), values, color=mark.color, ls=mark.dash)
            at.set_ylim(0, 1.02)
            at.set_xlabel("heads, each pattern's from best to worst")
            at.set_title(title)
        axes[0, 0].set_ylabel(f"recall of {SHOWN} keys a row")
        present = [n for n in MARKS if n in set(rows["pattern"])]
        handles = [style.handle(n, MARKS[n], marker="") for n in present]
        style.finish(figure, footer, handles)
    return Picture("heads", figure, "Recall by head: the spread that medians hide.")


def _by_length(grown: pd.DataFrame, heads: int) -> Picture:
    with style.rc(style.COLUMN_IN):
        figure, axes = style.canvas(style.COLUMN_IN, panel_in=2.3)
        at = axes[0, 0]
        for name, own in grown.groupby("pattern", sort=False):
            mark = MARKS[name]
            at.plot(own["n"], 1 - own["recall"], color=mark.color, marker=mark.marker, ls=mark.dash)
        style.log_sizes(at, grown["n"], "tokens n")
        at.set_ylim(-0.03, 1)
        at.set_ylabel("lost mass")
        present = _handles(list(grown["pattern"].unique()))
        style.finish(figure, f"MiniLM, the first n tokens, medians over {heads} heads", present)
    return Picture(
        "length", figure, "Lost mass against the text's length, at one key in eight throughout.",
    )  # fmt: skip


def generated(long: pd.DataFrame, keys: int) -> Picture:
    """Lost mass and speed-up by length, of generated heads. ``long``: a row a source, length and
    pattern; dense times are rows of their own."""
    dense = long[long["pattern"] == "dense"].set_index("n")["time_ns"]
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, 1, 3, 2.2)
        for at, source, title in zip(
            axes[0], ("calibrated", "Gaussian"), ("heads like MiniLM's", "Gaussian Q, K")
        ):
            for name, own in long[long["source"] == source].groupby("pattern", sort=False):
                mark = MARKS[name]
                at.plot(own["n"], 1 - own["recall"], color=mark.color, marker=mark.marker,
                        ls=mark.dash)  # fmt: skip
            at.set_ylim(-0.03, 1)
            at.set_title(title)
        axes[0, 0].set_ylabel("lost mass")
        at = axes[0, 2]
        timed = long[(long["source"] == "calibrated") & long["time_ns"].notna()]
        for name, own in timed.groupby("pattern", sort=False):
            mark, speedup = MARKS[name], dense.loc[own["n"]].to_numpy() / own["time_ns"]
            at.plot(own["n"], speedup, color=mark.color, marker=mark.marker, ls=mark.dash)
        at.set_title("speed-up over dense")
        at.set_yscale("log", base=2)
        style.unit_ticks(at, lambda value: f"{value:g}x")
        for at in axes[0]:
            style.log_sizes(at, sorted(long["n"].unique()), "tokens n")
        present = [name for name in MARKS if name in set(long["pattern"]) - {"dense"}]
        footer = f"{keys} keys a row; medians over heads; times of one head{_timed()}"
        style.finish(figure, footer, _handles(present))
    return Picture(
        "generated", figure, f"Lost mass of patterns of {keys} keys a row by length, on generated heads"
        " fitted to MiniLM's and on Gaussian ones, and the time that they save.",
    )  # fmt: skip


def _pooled(values: np.ndarray) -> np.ndarray:
    cells = len(values) // _COARSE
    return values.reshape(cells, _COARSE, cells, _COARSE).max((1, 3))


def _masks(layers: Sequence[Any], real: pd.DataFrame) -> Picture:
    """The head nearest to the median one, by a window with sinks and without, under each."""
    n, heads = layers[0].q.shape[2], len(layers) * layers[0].q.shape[1]
    both = real[(real["budget"] == SHOWN) & real["pattern"].isin(["local", "sinks + local"])]
    off = (both["recall"] - both.groupby("pattern")["recall"].transform("median")).abs()
    off = off.groupby([both["layer"], both["head"]], sort=False).max().iloc[:heads]
    layer, head = off.index[int(off.argmin())]
    one = layers[layer]
    weights = transformer.attention_weights(one.q[0, head], one.k[0, head])
    patterns = {name: p.admitted for name, p in sparsity.at_budget(n, SHOWN).items()}
    patterns[CHOSEN] = sparsity.chosen_blocks(one.q[0, [head]], one.k[0, [head]], SHOWN)[0]
    patterns |= {name: sparsity.control(name, weights, SHOWN) for name in CONTROLS[:2]}
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, -(-len(patterns) // 4), 4, 1.85)
        norm = PowerNorm(0.5, 0, np.quantile(_pooled(weights), 0.995))
        for at, (name, admitted) in zip(axes.flat, patterns.items()):
            # Both maps cover the panel: a cell shows the larger of what it keeps and what it loses.
            keeps, loses = _pooled(weights * admitted), _pooled(weights * ~admitted)
            at.imshow(np.where(keeps >= loses, keeps, np.nan), cmap="Blues", norm=norm,
                      interpolation="nearest")  # fmt: skip
            at.imshow(np.where(keeps < loses, loses, np.nan), cmap="Oranges", norm=norm,
                      interpolation="nearest")  # fmt: skip
            at.set_xticks([])
            at.set_yticks([])
            at.grid(visible=False)
            at.spines[:].set_visible(True)
            kept = float((weights * admitted).sum(1).mean())
            at.set_title(f"{name}: {kept:.2f}", fontsize="medium")
        for at in axes.flat[len(patterns) :]:
            at.set_axis_off()
        footer = f"MiniLM, layer {layer}, head {head}; queries down, keys across, {n} tokens · "
        footer += f"colour: the largest weight of {_COARSE} x {_COARSE}, by its square root,"
        footer += f" darkest from {norm.vmax:.2f}"
        names = (("kept", "#4292c6"), ("lost", "#f16913"))
        style.finish(figure, footer, [Patch(color=color, label=name) for name, color in names])
    return Picture(
        "masks", figure, f"Patterns of {SHOWN} keys a row over a real head, and the mass that each"
        " keeps: blue is kept, orange lost.",
    )  # fmt: skip
