# SPDX-License-Identifier: Apache-2.0
"""Attention weights as a graph: a node a word, an edge from the word that looks to the one it
looks at, as wide as the weight. What a threshold or a top-k leaves out is stated as the mass kept.

The words stand in their order on a line: looking back is drawn above it, looking ahead below, and
a word's look at itself is a bar under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from attnbench.figures import style
from attnbench.heatmap import checked
from attnbench.tokenizer import Word

BACK, AHEAD, ITSELF = "#0072B2", "#D55E00", "#6b7079"
_WIDEST_PT = 7.0  # the line of weight 1


@dataclass(frozen=True)
class AttentionGraph:
    """Edges (query, key, weight) between nodes, the strongest first, and the share of all
    attention that they carry."""

    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int, float], ...]
    mass_kept: float
    rule: str  # what was kept, in words


def attention_graph(
    weights: np.ndarray,
    tokens: Sequence[str],
    threshold: float | None = None,
    top: int | None = None,
) -> AttentionGraph:
    """Keeps the edges with at least ``threshold`` (default 0.1), or the ``top`` of every query.

    Args:
        weights: ``[n, n]``, rows are queries. tokens: n labels.

    Raises:
        ValueError: where the weights do not fit, both rules are given, or one is out of range.

    Example:
        >>> import numpy as np, attnbench
        >>> weights = np.array([[0.9, 0.1], [0.4, 0.6]])
        >>> graph = attnbench.attention_graph(weights, ["the", "cat"], threshold=0.5)
        >>> graph.edges, graph.mass_kept
        (((0, 0, 0.9), (1, 1, 0.6)), 0.75)
    """
    weights = checked(weights, len(tokens), len(tokens))
    if threshold is not None and top is not None:
        raise ValueError("top: give either a threshold or a top, not both")
    if top is not None:
        if top < 1:
            raise ValueError(f"top: must be at least 1, is {top}")
        order = np.argsort(-weights, axis=1, kind="stable")[:, :top]
        keep = np.zeros(weights.shape, bool)
        np.put_along_axis(keep, order, values=True, axis=1)
        keep &= weights > 0
        rule = f"the {top} largest of every word"
    else:
        threshold = 0.1 if threshold is None else threshold
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold: must lie in 0 ... 1, is {threshold}")
        keep = (weights >= threshold) & (weights > 0)
        rule = f"weights of at least {threshold:g}"
    edges = [(int(i), int(j), float(weights[i, j])) for i, j in np.argwhere(keep)]
    edges.sort(key=lambda edge: -edge[2])
    total = float(weights.sum())
    kept = float(weights[keep].sum()) / total if total else 0.0
    return AttentionGraph(tuple(tokens), tuple(edges), kept, rule)


def merge_words(weights: np.ndarray, words: Sequence[Word]) -> np.ndarray:
    """Weights between pieces ``[n, n]`` as weights between words: the mean over the pieces that
    look, the sum over those looked at. Rows that summed to one still do."""
    columns = np.stack([weights[:, list(word.pieces)].sum(1) for word in words], axis=1)
    return np.stack([columns[list(word.pieces)].mean(0) for word in words])


def rollout(layers: Sequence[np.ndarray], skip: float = 0.5) -> np.ndarray:
    """How much of each input token reaches each output one through a stack of layers ``[n, n]``:
    the product of the layers' graphs, each mixed with the skip connection (Abnar and Zuidema 2020).

    Args:
        layers: weights ``[n, n]`` a layer, the first layer first. skip: the skip's share, 0 ... 1.

    Raises:
        ValueError: where the share is out of range or a layer's weights are none.
    """
    if not 0 <= skip <= 1:
        raise ValueError(f"skip: must lie in 0 ... 1, is {skip}")
    n = len(layers[0])
    through = np.eye(n)
    for weights in layers:
        through = (skip * np.eye(n) + (1 - skip) * checked(weights, n, n)) @ through
    return through


def _layout(graph: AttentionGraph, width_in: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Centre and half-width of every node in inches, and the font size in points."""
    characters = np.array([max(len(node), 2) for node in graph.nodes])
    gap = 1.3  # characters between words
    needed = characters.sum() + gap * (len(characters) - 1)
    character_in = min(width_in / needed, 0.62 * 9 / 72)
    gap_in = (width_in - character_in * characters.sum()) / max(len(characters) - 1, 1)
    gap_in = min(gap_in, 0.45)
    half = characters * character_in / 2
    centre = np.cumsum(2 * half + gap_in) - half - gap_in
    return centre, half, character_in * 72 / 0.62


def draw(axes: Axes, graph: AttentionGraph, width_in: float) -> float:
    """Draws into empty axes that are ``width_in`` wide, in inches; the height that it takes."""
    at, half, font_pt = _layout(graph, width_in)
    # Arcs stand clear of the words, and below also of the bars under them.
    feet = {1: (0.62 * font_pt + 1) / 72, -1: (0.62 * font_pt + _WIDEST_PT / 2 + 2.5) / 72}
    longest = max((abs(at[j] - at[i]) for i, j, _ in graph.edges), default=1.0) or 1.0
    tallest = min(0.38 * longest, 0.24 * width_in)
    reach = dict(feet)
    for i, j, weight in reversed(graph.edges):
        if i == j:  # a bar under the word
            thick = max(_WIDEST_PT / 2 * weight, 0.3)
            below = -(0.62 * font_pt + 1 + thick / 2) / 72
            axes.plot([at[i] - half[i] * 0.8, at[i] + half[i] * 0.8], [below] * 2, color=ITSELF,
                      linewidth=thick, solid_capstyle="butt")  # fmt: skip
            continue
        side = 1 if j < i else -1
        arrow_pt = 2.5 + _WIDEST_PT * weight
        foot = side * feet[side]
        tip = foot + side * arrow_pt / 2 / 72
        # Arcs leave a word on the side they lean to and arrive at its middle.
        begin, end = at[i] + np.sign(at[j] - at[i]) * half[i] * 0.5, at[j]
        rise = side * tallest * (abs(at[j] - at[i]) / longest) ** 0.7
        # A Bezier curve reaches three quarters of its handles' height.
        curve = [(begin, foot), (begin, foot + rise / 0.75), (end, foot + rise / 0.75), (end, tip)]
        reach[side] = max(reach[side], abs(foot + rise) + 0.06)
        colour, alpha = (BACK if side > 0 else AHEAD), 0.25 + 0.65 * weight
        axes.add_patch(
            PathPatch(
                Path(curve, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]),
                fill=False, edgecolor=colour, alpha=alpha, capstyle="butt",
                linewidth=max(_WIDEST_PT * weight, 0.3),
            )
        )  # fmt: skip
        axes.plot(end, tip, marker="v" if side > 0 else "^", color=colour, alpha=alpha,
                  markersize=arrow_pt, markeredgewidth=0)  # fmt: skip
    for x, node in zip(at, graph.nodes):
        special = node.startswith("[") and node.endswith("]")
        axes.text(x, 0, node, ha="center", va="center_baseline", fontsize=font_pt,
                  color=style.FAINT if special else style.INK)  # fmt: skip
    left = (at[-1] + half[-1] - width_in) / 2  # centred
    axes.set_xlim(left, left + width_in)
    axes.set_ylim(-reach[-1], reach[1])
    axes.set_axis_off()
    return reach[1] + reach[-1]


def plot_graph(graph: AttentionGraph, title: str = "", width_in: float = style.WIDE_IN) -> Figure:
    """The graph as a figure, with what its edges mean and the mass kept under it."""
    return plot_graphs([(graph, title)], width_in)


def plot_graphs(
    panels: Sequence[tuple[AttentionGraph, str]], width_in: float = style.WIDE_IN
) -> Figure:
    """Several graphs, one above the other."""
    margin = 0.1
    with style.rc(width_in):
        figure = plt.figure(figsize=(width_in, 1), facecolor="white")
        axes = [figure.add_axes((0, 0, 1, 1), label=str(n)) for n in range(len(panels))]
        heights = [draw(at, graph, width_in - 2 * margin) for at, (graph, _) in zip(axes, panels)]
        title_in, note_in, legend_in = 0.24, 0.27, 0.18
        total = sum(heights) + len(panels) * (title_in + note_in) + legend_in
        figure.set_figheight(total)
        top = total
        for at, height, (graph, title) in zip(axes, heights, panels):
            figure.text(margin / width_in, (top - 0.05) / total, title, va="top",
                        fontsize=plt.rcParams["axes.titlesize"])  # fmt: skip
            top -= title_in + height
            at.set_position((margin / width_in, top / total, 1 - 2 * margin / width_in,
                             height / total))  # fmt: skip
            kept = f"edges: {graph.rule}; they carry {graph.mass_kept:.0%} of all attention"
            figure.text(margin / width_in, (top - 0.04) / total, kept, va="top",
                        fontsize=plt.rcParams["legend.fontsize"], color=style.FAINT)  # fmt: skip
            top -= note_in
        x = margin / width_in
        for text, colour in (
            ("looks back", BACK),
            ("looks ahead", AHEAD),
            ("at itself (bar)", ITSELF),
        ):
            figure.text(x, 0.06 / total, f"\u2014 {text}", color=colour,
                        fontsize=plt.rcParams["legend.fontsize"])  # fmt: skip
            x += 1.05 / width_in
        return figure


def plot_layers(
    layers: Sequence[np.ndarray],
    tokens: Sequence[str],
    threshold: float = 0.1,
    title: str = "",
    width_in: float = style.WIDE_IN,
) -> Figure:
    """A stack of layers as one graph: a row of nodes a layer, the input below; an edge of a layer
    runs from each token up to the one that looks at it, as wide as the weight.

    Args:
        layers: weights ``[n, n]`` a layer, the first layer first. tokens: n labels.

    Raises:
        ValueError: where a layer's weights do not fit or the threshold is out of range.
    """
    graphs = [attention_graph(weights, tokens, threshold) for weights in layers]
    with style.rc(width_in):
        figure, axes = style.canvas(width_in, panel_in=0.55 * len(layers) + 0.9)
        at = axes[0, 0]
        for level, graph in enumerate(graphs):
            for i, j, weight in reversed(graph.edges):
                colour = ITSELF if i == j else BACK if j < i else AHEAD
                at.plot([j, i], [level, level + 1], color=colour, linewidth=_WIDEST_PT / 2 * weight,
                        alpha=0.25 + 0.65 * weight, solid_capstyle="round", zorder=1)  # fmt: skip
        places = [(i, level) for level in range(len(layers) + 1) for i in range(len(tokens))]
        at.scatter(*zip(*places), s=7, color=style.INK, zorder=2)
        at.set_xticks(range(len(tokens)), tokens, rotation=40, ha="right", rotation_mode="anchor")
        names = ["input", *(f"after layer {level}" for level in range(len(layers)))]
        at.set_yticks(range(len(names)), names)
        at.tick_params(length=0)
        at.grid(visible=False)
        for spine in at.spines.values():
            spine.set_visible(False)
        at.set_title(title)
        kept = float(np.mean([graph.mass_kept for graph in graphs]))
        style.finish(
            figure,
            f"edges: {graphs[0].rule}; they carry {kept:.0%} of all attention · orange: looks"
            " ahead, blue: back, grey: at itself",
        )
        return figure
