# SPDX-License-Identifier: Apache-2.0
"""Weights are not explanations: attention to a token beside what leaving the token out changes.

Influence of a token is 1 - cosine between a real model's vectors of the sentence with and without
it. Beside it stand the attention that the token receives in each layer (mean over heads and
queries), and its share by rollout through all layers up to there (Abnar and Zuidema 2020). Jain and
Wallace (2019) found such rankings weakly related; Wiegreffe and Pinter (2019) call it a question of
what one asks of an explanation.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from attnbench import graph, show, tensors
from attnbench.figures import style
from attnbench.studies import ROOT, Claim, Finding, Picture, Study

TEXT = ROOT / "experiments" / "text" / "library.txt"
WEAK = 0.5  # a rank correlation under it explains less than a quarter of the ranks' variance
TOKENS = range(9, 40)  # of a sentence, the marks among them
# Words of grammar: attention passes them over, and leaving them out changes little.
_GRAMMAR = (
    "a about after all an and any are as at be been before because but by can could did do does"
    " each for from had has have he her him his how i if in into is it its just like may might"
    " more most must no nor not of off on one only onto or other our out over own shall she should"
    " since so some such than that the their them then there these they this those though through"
    " to too under until up upon us very was we were what when where which while who whom whose"
    " why will with would yet you your"
)
FUNCTION_WORDS = frozenset(_GRAMMAR.split())

Array = np.ndarray


class Sentence(NamedTuple):
    """Tokens without the marks; influence ``[tokens]``, received attention and rollout
    ``[layers, tokens]``, attention by head ``[layers, heads, tokens]``."""

    tokens: list[str]
    influence: Array
    received: Array
    rolled: Array
    heads: Array

    @property
    def content(self) -> Array:
        """Which tokens are neither grammar nor punctuation."""
        return np.array([t.isalpha() and t not in FUNCTION_WORDS for t in self.tokens])


def pooled(states: Array) -> Array:
    """The model's unit vector of a sentence: the mean of its last states."""
    mean = states.mean(0)
    return mean / np.linalg.norm(mean)


def look(text: str) -> Sentence | None:
    """None for a sentence that is too short or too long to rank."""
    model = tensors.load_model("minilm")
    ids, tokens, _ = model.tokenizer.encode(text)
    if len(ids) not in TOKENS:
        return None
    *layers, last = model.forward(ids)
    whole = pooled(last)
    influence = []
    for left_out in range(1, len(ids) - 1):
        *_, rest = model.forward(ids[:left_out] + ids[left_out + 1 :])
        influence.append(1 - float(whole @ pooled(rest)))
    heads = [show.kernel_weights(layer.q[0], layer.k[0])[0] for layer in layers]
    weights = [w.mean(0) for w in heads]
    rolled = [graph.rollout(weights[: i + 1]) for i in range(len(weights))]
    inner = slice(1, -1)
    return Sentence(
        tokens[inner],
        np.array(influence),
        np.array([w.mean(0)[inner] for w in weights]),
        np.array([w.mean(0)[inner] for w in rolled]),
        np.array([w.mean(1)[:, inner] for w in heads]),
    )


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's; NaN where one of them is constant or there are fewer than four tokens."""
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def correlations(sentences: list[Sentence], what: str, content: bool = False) -> Array:
    """With influence, ``[sentences, layers]`` or ``[sentences, layers, heads]``; over all tokens or
    those of content."""
    found = []
    for s in sentences:
        keep = s.content if content else np.ones(len(s.tokens), bool)
        values = getattr(s, what)[..., keep]
        rows = [rank_correlation(s.influence[keep], row) for row in values.reshape(-1, keep.sum())]
        found.append(np.reshape(rows, values.shape[:-1]))
    return np.array(found)


def run(folder: Path, quick: bool) -> Finding:
    flat = TEXT.read_text(encoding="utf-8").replace("\n", " ")
    found: list[Sentence] = []
    for text in re.split(r"(?<=[.?!]) +", flat):
        if len(found) < (4 if quick else 32) and (sentence := look(text)) is not None:
            found.append(sentence)
    received, rolled = correlations(found, "received"), correlations(found, "rolled")
    inner = correlations(found, "received", content=True)
    heads = np.nanmedian(correlations(found, "heads"), 0)
    median, rolled_median = np.nanmedian(received, 0), np.nanmedian(rolled, 0)
    content = np.nanmedian(inner, 0)
    agreeing = np.array([s.received.argmax(1) == s.influence.argmax() for s in found]).mean(0)
    strongest, best_top = int(np.abs(median).argmax()), int(agreeing.argmax())
    weak = float((np.abs(heads) < WEAK).mean())
    claims = [
        Claim(
            f"attention received and influence are weakly related in every layer (|rank"
            f" correlation| under {WEAK:g}, the median over sentences)",
            ", ".join(f"{m:+.2f}" for m in median) + f" by layer, over {len(found)} sentences",
            bool(np.abs(median).max() < WEAK),
        ),
        Claim(
            "so are they among words of content alone",
            ", ".join(f"{m:+.2f}" for m in content) + " by layer",
            bool(np.abs(content).max() < WEAK),
        ),
        Claim(
            "so are they in most single heads, as heatmaps show them",
            f"{weak:.0%} of {heads.size} heads under {WEAK:g}; from {heads.min():+.2f} to"
            f" {heads.max():+.2f}",
            weak > 0.5,
        ),
        Claim(
            "the token most looked at is not the one that matters most, more often than not",
            f"it is in {agreeing[best_top]:.0%} of the sentences at best (layer {best_top})",
            bool(agreeing.max() < 0.5),
        ),
        Claim(
            "following attention through the layers (rollout) says more than the last layer alone",
            f"median {rolled_median[-1]:+.2f} by rollout, {median[-1]:+.2f} by the last layer",
            bool(rolled_median[-1] > median[-1]),
        ),
    ]
    text = [
        f"Over {len(found)} sentences the rank correlation between the attention that a token"
        f" receives and what leaving it out changes has medians of {median.min():+.2f} to"
        f" {median.max():+.2f} in the {len(median)} layers (strongest in layer {strongest},"
        f" {median[strongest]:+.2f}); among words of content alone {content.min():+.2f} to"
        f" {content.max():+.2f}. Single heads range from {heads.min():+.2f} to {heads.max():+.2f}, and"
        f" {weak:.0%} stay under {WEAK:g}: a head picked for its heatmap can say anything. Rollout"
        f" through all layers gives {rolled_median[-1]:+.2f}. The token most looked at in the last"
        f" layer is the most influential one in {agreeing[-1]:.0%} of the sentences.",
        "The output here is the mean of all last states, to which a token contributes through just"
        " the attention that it receives; Jain and Wallace took classifiers that read one state.",
    ]
    numbers = {
        "sentences": len(found), "tokens": [len(s.tokens) for s in found],
        "correlation_received": received, "correlation_content_words": inner,
        "correlation_by_head": heads, "correlation_rollout": rolled,
        "most_looked_at_is_most_influential_by_layer": agreeing,
    }  # fmt: skip
    pictures = [_by_layer(received, inner, rolled, heads), _example(found), _messages()]
    return Finding(text, claims, numbers, pictures)


def _by_layer(received: Array, inner: Array, rolled: Array, heads: Array) -> Picture:
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, panel_in=2.2)
        at = axes[0, 0]
        handles = []
        layers = np.arange(received.shape[1])
        for shift, values, name, mark in (
            (-0.15, received, "attention received", style.Mark("#0072B2", "o", "-")),
            (0, inner, "the same, words of content", style.Mark("#009E73", "^", (0, (1, 1.2)))),
            (0.15, rolled, "rollout", style.Mark("#D55E00", "s", (0, (4, 1.5)))),
        ):
            low, mid, high = np.nanquantile(values, (0.25, 0.5, 0.75), axis=0)
            at.vlines(layers + shift, low, high, color=mark.color, lw=2.2, alpha=0.35)
            at.plot(layers + shift, mid, color=mark.color, marker=mark.marker, ls=mark.dash)
            handles.append(style.handle(name, mark))
        dots = style.Mark(style.FAINT, ".", "none")
        for layer, row in enumerate(heads):
            at.plot([layer + 0.3] * len(row), row, marker=".", ls="none", color=style.FAINT)
        handles.append(style.handle("single heads (medians)", dots))
        at.axhline(0, color=style.FAINT, lw=0.6)
        at.set_ylim(-1, 1)
        at.set_xlabel("layer")
        at.set_ylabel("rank correlation with influence")
        footer = f"MiniLM, {len(received)} sentences; medians and quartiles"
        style.finish(figure, footer, handles)
    return Picture(
        "correlation", figure, "How well attention ranks tokens by what leaving them out changes."
    )


def _example(found: list[Sentence]) -> Picture:
    """The sentence whose last-layer correlation is the median one."""
    order = np.argsort(correlations(found, "received")[:, -1])
    sentence = found[int(order[len(order) // 2])]
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, panel_in=1.9)
        at = axes[0, 0]
        place = np.arange(len(sentence.tokens))
        bars = (
            (-0.27, sentence.influence, "influence (leave one out)", style.INK),
            (0.0, sentence.received[-1], "attention received, last layer", "#0072B2"),
            (0.27, sentence.rolled[-1], "rollout", "#D55E00"),
        )
        for shift, values, name, color in bars:
            at.bar(place + shift, values / values.sum(), 0.25, color=color, label=name)
        at.set_xticks(place, sentence.tokens, rotation=55, ha="right", rotation_mode="anchor")
        at.grid(visible=False, axis="x")
        at.set_ylabel("share over the tokens")
        at.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
        style.finish(figure, "MiniLM; the sentence with the median rank correlation")
    return Picture("example", figure, "One sentence: what matters, and what is looked at.")


def _messages() -> Picture:
    """Attention as messages on a graph, a layer at a time, for the sentence of the textbooks."""
    reading = show.read(show.EXAMPLES[0][0])
    layers = [
        graph.merge_words(show.kernel_weights(q, k)[0].mean(0), reading.words)
        for q, k in zip(reading.q, reading.k)
    ]
    figure = graph.plot_layers(layers, reading.labels, 0.12, "MiniLM, mean over the heads")
    return Picture(
        "messages", figure, "Layers of attention as one graph; rollout adds up its paths."
    )


STUDY = Study(
    "explanations",
    "Does attention say which words the model's output depends on?",
    "Only weakly: the ranks of attention weights and of leave-one-out influence are not strongly"
    " related (Jain and Wallace 2019), though rollout through the layers does better than one layer"
    " (Abnar and Zuidema 2020).",
    run,
)
