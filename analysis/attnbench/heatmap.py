# SPDX-License-Identifier: Apache-2.0
"""Attention weights as a heatmap: queries down, keys across, colours always from 0 to 1.

The scale is fixed so that two pictures can be compared: a dark cell is a large weight, whatever
the head. Small maps carry their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from attnbench.figures import style

COLOURS = "Blues"  # one hue, light to dark: safe for colour-blind readers and in grey print
_NUMBERED = 24  # keys; beyond, numbers in the cells would not be legible
_SHOWN = 0.05  # smaller weights carry no number


def checked(weights: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The weights as ``[rows, columns]``; leading dimensions of 1 are dropped.

    Raises ValueError where the shape differs or a weight lies outside 0 ... 1.
    """
    weights = np.asarray(weights, np.float64)
    while weights.ndim > 2 and weights.shape[0] == 1:
        weights = weights[0]
    if weights.shape != (rows, columns):
        raise ValueError(f"weights: must be {[rows, columns]} as the tokens, is {weights.shape}")
    if not np.all((weights >= 0) & (weights <= 1 + 1e-5)):
        raise ValueError("weights: must lie in 0 ... 1")
    return weights


def draw(
    axes: Axes,
    weights: np.ndarray,
    tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
) -> AxesImage:
    """Draws into axes that are there already; the image, for a colour bar."""
    keys = list(tokens if key_tokens is None else key_tokens)
    weights = checked(weights, len(tokens), len(keys))
    image = axes.imshow(weights, cmap=COLOURS, vmin=0, vmax=1, aspect="equal")
    axes.set_xticks(range(len(keys)), keys, rotation=90)
    axes.set_yticks(range(len(tokens)), tokens)
    axes.tick_params(length=0, pad=2)
    axes.xaxis.tick_top()
    axes.set_xlabel("looked at (key)")
    axes.xaxis.set_label_position("bottom")
    axes.set_ylabel("looks (query)")
    axes.grid(visible=False)
    axes.set_xticks(np.arange(len(keys) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(tokens) + 1) - 0.5, minor=True)
    axes.tick_params(which="minor", length=0)
    if len(keys) <= 64:
        axes.grid(visible=True, which="minor", color=style.GRID, linewidth=0.4)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(keys) <= _NUMBERED:
        for (i, j), weight in np.ndenumerate(weights):
            if weight >= _SHOWN:
                text = "1" if weight >= 0.995 else f"{weight:.2f}"[1:]
                colour = "white" if weight > 0.55 else style.INK
                axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=5.5)
    return image


def plot_attention(
    weights: np.ndarray,
    tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    title: str = "",
    width_in: float = style.COLUMN_IN,
) -> Figure:
    """A heatmap of weights ``[queries, keys]`` in 0 ... 1.

    Args:
        weights: rows are queries. tokens: their labels, and the keys' unless key_tokens is given.
        width_in: of the figure, in inches.

    Raises:
        ValueError: where the weights do not fit the tokens.

    Example:
        >>> import numpy as np, attnbench
        >>> figure = attnbench.plot_attention(np.full((2, 2), 0.5), ["hello", "world"])
        >>> figure.savefig("/dev/null", format="png")
    """
    return plot_panels([(weights, tokens, key_tokens, title)], width_in)


def plot_panels(
    panels: Sequence[tuple[np.ndarray, Sequence[str], Sequence[str] | None, str]],
    width_in: float = style.WIDE_IN,
) -> Figure:
    """Several heatmaps side by side under one scale: (weights, tokens, key tokens, title) each."""
    with style.rc(width_in):
        widths = [len(keys or tokens) for _, tokens, keys, _ in panels]
        tallest = max(len(tokens) for _, tokens, _, _ in panels)
        labels = max(len(t) for _, tokens, keys, _ in panels for t in [*tokens, *(keys or [])])
        label_in = plt.rcParams["xtick.labelsize"] * 0.62 / 72 * labels
        cell = (width_in - 0.6 - (label_in + 0.3) * len(panels)) / sum(widths)
        lines = max(title.count("\n") + 1 if title else 0 for *_, title in panels)
        height = tallest * cell + label_in + 0.16 * lines + 0.4
        figure, axes = plt.subplots(
            1, len(panels), squeeze=False, layout="constrained", width_ratios=widths,
            figsize=(width_in, height), facecolor="white",
        )  # fmt: skip
        image = None
        for at, (weights, tokens, keys, title) in zip(axes[0], panels):
            image = draw(at, weights, tokens, keys)
            at.set_title(title, y=1.0, pad=label_in * 72 + 4)  # one height, whatever the labels
        assert image is not None
        bar = figure.colorbar(image, ax=axes[0], fraction=0.05, pad=0.02, aspect=30)
        bar.set_label("weight")
        bar.outline.set_visible(False)
        return figure


def plot_heads(
    weights: np.ndarray, titles: Sequence[str] | None = None, width_in: float = style.WIDE_IN
) -> Figure:
    """All heads at a glance: a small map each, under one scale, without tokens.

    Args:
        weights: ``[heads, queries, keys]`` (a row of them for each eight), or
            ``[layers, heads, queries, keys]`` (a row a layer).
        titles: of the maps, in order; by default their numbers.

    Raises:
        ValueError: where the shape is another or a weight lies outside 0 ... 1.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim not in (3, 4) or 0 in weights.shape:
        raise ValueError(
            f"weights: must be [heads, queries, keys] or with layers before, is {weights.shape}"
        )
    layers = 1 if weights.ndim == 3 else len(weights)
    queries, keys = weights.shape[-2:]
    maps = weights.reshape(-1, queries, keys)
    heads = len(maps) // layers
    if titles is None:
        titles = [f"{i}" if layers == 1 else f"{i // heads}.{i % heads}" for i in range(len(maps))]
    if len(titles) != len(maps):
        raise ValueError(f"titles: must be {len(maps)}, one a head, are {len(titles)}")
    across = min(heads, 8) if layers == 1 else heads
    down = -(-len(maps) // across)
    with style.rc(width_in):
        cell = (width_in - 0.7) / across
        figure, axes = plt.subplots(
            down, across, squeeze=False, layout="constrained", facecolor="white",
            figsize=(width_in, down * (cell * queries / keys + 0.16) + 0.1),
        )  # fmt: skip
        for axis in axes.flat:
            axis.set_axis_off()
        image = None
        for axis, one, title in zip(axes.flat, maps, titles):
            image = axis.imshow(checked(one, queries, keys), cmap=COLOURS, vmin=0, vmax=1,
                                aspect="auto", interpolation="nearest")  # fmt: skip
            axis.set_axis_on()
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(visible=False)
            axis.spines[:].set_visible(True)
            axis.set_title(title, fontsize="small", pad=2)
        assert image is not None
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, aspect=30)
        bar.set_label("weight")
        bar.outline.set_visible(False)
        return figure
