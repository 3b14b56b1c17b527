# SPDX-License-Identifier: Apache-2.0
"""One word, two meanings: how far its neighbours move the vector of "bank" in a real model.

A static embedding has one vector a word form, whatever stands around it; here the distance between
two occurrences is 1 - cosine of their hidden states, layer by layer. Two sentences with "bank" in
the same place start from the same vector, so all that separates them came through attention.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np

from attnbench import graph, heatmap, show
from attnbench.figures import style
from attnbench.studies import Claim, Finding, Picture, Study

WORD = "bank"
# The first of each kind is the pair of the textbooks; "bank" stands in the same place in both.
SENTENCES = {
    "river": (
        "bank of the river",
        "they sat on the grassy bank of the stream",
        "the boat drifted towards the muddy bank",
        "trees grow along the bank where the water is slow",
    ),
    "money": (
        "bank approved the loan",
        "the bank raised its interest rates",
        "she opened an account at the bank",
        "the bank refused to lend them the money",
    ),
}


def distances(states: np.ndarray) -> np.ndarray:
    """1 - cosine between all rows of ``[m, hidden]``: ``[m, m]``."""
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    return 1 - unit @ unit.T


def between_and_within(table: np.ndarray, kinds: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The distances of pairs of different kinds, and of the same kind."""
    pairs = list(combinations(range(len(kinds)), 2))
    other = np.array([table[i, j] for i, j in pairs if kinds[i] != kinds[j]])
    same = np.array([table[i, j] for i, j in pairs if kinds[i] == kinds[j]])
    return other, same


def nearest_kind(table: np.ndarray, kinds: list[str]) -> np.ndarray:
    """Whether each row's nearest other row is of its own kind."""
    table = table + np.where(np.eye(len(kinds)), np.inf, 0)
    return np.array([kinds[j] == kind for j, kind in zip(table.argmin(1), kinds)])


def run(folder: Path, quick: bool) -> Finding:
    count = 2 if quick else 4
    kinds = [kind for kind, texts in SENTENCES.items() for _ in texts[:count]]
    readings = [show.read(text) for texts in SENTENCES.values() for text in texts[:count]]
    # [sentence, layer, hidden]: before the first layer and after each.
    vectors = np.array(
        [[x[list(r.words[r.find(WORD)].pieces)].mean(0) for x in r.states] for r in readings]
    ).astype(np.float64)
    tables = [distances(vectors[:, layer]) for layer in range(vectors.shape[1])]
    pair = [float(t[0, count]) for t in tables]
    other, same = zip(*(between_and_within(t, kinds) for t in tables))
    own = [nearest_kind(t, kinds) for t in tables]
    last = len(tables) - 1
    ratio = other[last].mean() / same[last].mean()
    claims = [
        Claim(
            "before the first layer both are the same vector, as in a static embedding",
            f"distance {abs(pair[0]):.1e}",
            abs(pair[0]) < 1e-6,
        ),
        Claim(
            "its neighbours move them apart, further after the last layer than after the first",
            f"{pair[1]:.3f} after layer 0, {pair[last]:.3f} after layer {last - 1}",
            pair[last] > pair[1] > 1e-3,
        ),
        Claim(
            "the model keeps meanings apart: two meanings are further from each other than two"
            " sentences of one meaning",
            f"mean distance {other[last].mean():.3f} between, {same[last].mean():.3f} within"
            f" ({ratio:.2f} times)",
            bool(ratio > 1),
        ),
        Claim(
            "after the last layer the nearest other “bank” has the same meaning, more often than not",
            f"{own[last].sum()} of {len(kinds)} sentences ({own[1].sum()} after layer 0)",
            bool(own[last].mean() > 0.5),
        ),
    ]
    first = SENTENCES["river"][0], SENTENCES["money"][0]
    text = [
        f"“{WORD}” in “{first[0]}” and in “{first[1]}” starts as one vector (distance"
        f" {abs(pair[0]):.0e}) and is moved to distance {pair[last]:.3f} by {last} layers; a static"
        f" embedding stays at 0. Over {len(kinds)} sentences, two meanings end {ratio:.2f} times as"
        f" far apart ({other[last].mean():.3f}) as two sentences of one meaning"
        f" ({same[last].mean():.3f}), and {own[last].sum()} of {len(kinds)} occurrences have one of"
        " their own meaning as nearest neighbour."
    ]
    numbers = {
        "sentences": {k: v[:count] for k, v in SENTENCES.items()},
        "pair_by_layer": pair,
        "between_by_layer": other, "within_by_layer": same,
        "nearest_of_own_meaning_by_layer": [x.mean() for x in own],
        "distances_last": tables[last],
    }  # fmt: skip
    pictures = [
        _picture(pair, other, same, tables[last], [r.sentence for r in readings]),
        _heads(readings[0], readings[count]),
    ]
    return Finding(text, claims, numbers, pictures)


def _picture(
    pair: list[float], other: tuple, same: tuple, table: np.ndarray, sentences: list[str]
) -> Picture:
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, 1, 2, 2.9, width_ratios=[1, 1.15])
        at = axes[0, 0]
        layers = np.arange(len(pair))
        marks = {
            "two meanings": style.Mark("#D55E00", "s", "-"),
            "one meaning": style.Mark("#0072B2", "o", "-"),
        }
        for (_, mark), values in zip(marks.items(), (other, same)):
            at.fill_between(layers, [v.min() for v in values], [v.max() for v in values],
                            color=mark.color, alpha=0.13, lw=0)  # fmt: skip
            at.plot(layers, [v.mean() for v in values], color=mark.color, marker=mark.marker)
        marks["the pair of the title"] = style.Mark(style.INK, "D", (0, (4, 1.5)))
        at.plot(layers, pair, color=style.INK, marker="D", ls=(0, (4, 1.5)))
        marks["static embedding"] = style.Mark(style.FAINT, "", ":")
        at.plot(layers, np.zeros(len(layers)), color=style.FAINT, ls=":")
        at.set_xticks(layers, ["in", *map(str, layers[:-1])])
        at.set_xlabel("after layer")
        at.set_ylabel(f"1 − cosine between two “{WORD}”")
        at.set_title(f"“{sentences[0]}” / “{sentences[len(sentences) // 2]}”", fontsize="medium")
        image = axes[0, 1].imshow(table, cmap=heatmap.COLOURS, vmin=0, vmax=1)
        axes[0, 1].set_yticks(range(len(sentences)), sentences, fontsize="small")
        axes[0, 1].set_xticks([])
        axes[0, 1].grid(visible=False)
        for spine in axes[0, 1].spines.values():
            spine.set_visible(False)
        for (i, j), value in np.ndenumerate(table):
            axes[0, 1].text(j, i, f"{abs(value):.2f}"[1:] if i != j else "", ha="center", va="center",
                            fontsize=5.5, color="white" if value > 0.55 else style.INK)  # fmt: skip
        axes[0, 1].set_title("1 − cosine after the last layer")
        figure.colorbar(image, ax=axes[0, 1], fraction=0.05, pad=0.02).outline.set_visible(False)
        handles = [style.handle(name, mark) for name, mark in marks.items()]
        style.finish(figure, "MiniLM, 6 layers of 12 heads, f32; lines are means, bands extremes",
                     handles)  # fmt: skip
    return Picture(
        "bank", figure,
        f"Distance between occurrences of “{WORD}” by layer, and between all of them after the last.",
    )  # fmt: skip


def _heads(first: show.Reading, second: show.Reading) -> Picture:
    layer, head = show.informative_head([first, second], WORD)
    panels = []
    for reading in (first, second):
        pieces, _ = show.kernel_weights(reading.q[layer][head], reading.k[layer][head])
        weights = graph.merge_words(pieces, reading.words)
        panels.append((weights, reading.labels, None, f"“{reading.sentence}”"))
    return Picture(
        "bank-heads", heatmap.plot_panels(panels),
        f"What each word looks at in layer {layer}, head {head}, the one in which “{WORD}” looks"
        " hardest past its neighbours.",
    )  # fmt: skip


STUDY = Study(
    "words",
    "Does one word get two vectors in two contexts?",
    "A static embedding gives “bank” one vector; self-attention rebuilds it from its neighbours, so"
    " that the bank of a river and the bank that lends end apart, by meaning and not just by"
    " wording.",
    run,
)
