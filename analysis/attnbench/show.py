# SPDX-License-Identifier: Apache-2.0
"""Attention of a real model over a sentence, as a heatmap and as a graph (PNG and PDF).

The model is MiniLM (6 layers x 12 heads; numbers from 0). Its own Q and K of the layer and head
chosen go through one of our kernels, and the weights are checked against NumPy's. Without --layer
and --head, the head is the one in which words look hardest past themselves, their neighbours and
the marks [CLS] and [SEP], beyond what all words give the word they look at; with --word, the one in
which that word does; in a sentence with a pronoun, the one in which it so looks at a word before.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from attnbench import graph, heatmap, tensors
from attnbench.format import reason
from attnbench.tokenizer import Word, merge_contractions

# The sentences that texts on attention explain it with; two of them belong together.
EXAMPLES = (
    ("The animal didn't cross the street because it was too tired", None, None),
    ("The cat sat on the mat", None, None),
    ("Turn off the lights", None, None),
    ("bank of the river", "bank approved the loan", "bank"),
)
_PRONOUNS = ("it", "they", "them", "he", "him", "she", "her", "itself", "themselves")
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Reading:
    """A sentence as the model reads it: words, Q and K ``[heads, n, d]`` of every layer, and the
    hidden states ``[n, hidden]`` before the first layer and after each."""

    sentence: str
    words: list[Word]
    q: list[np.ndarray]
    k: list[np.ndarray]
    states: list[np.ndarray]

    @property
    def final(self) -> np.ndarray:
        return self.states[-1]

    @property
    def labels(self) -> list[str]:
        return [word.text for word in self.words]

    def find(self, text: str) -> int:
        """The place of a word. Raises ValueError where the sentence lacks it."""
        for place, word in enumerate(self.words):
            if word.text == text.lower():
                return place
        raise ValueError(f"--word: {text!r} is no word of {self.sentence!r}")


def read(sentence: str) -> Reading:
    """Runs the model over a sentence. Raises ValueError where nothing is to be seen in it."""
    model = tensors.load_model("minilm")
    ids, _, words = model.tokenizer.encode(sentence)
    if len(words) < 4:
        raise ValueError("SENTENCE: must have at least two words")
    if len(ids) == 512:
        raise ValueError("SENTENCE: is longer than the model's 512 tokens")
    *layers, final = model.forward(ids)
    return Reading(
        sentence,
        merge_contractions(words),
        [x.q[0] for x in layers],
        [x.k[0] for x in layers],
        [*(x.x for x in layers), final],
    )


def kernel_weights(
    q: np.ndarray, k: np.ndarray, kernel: str = "auto", **mask: Any
) -> tuple[np.ndarray, float]:
    """Weights ``[..., n, n]`` by one of our kernels, and their largest distance to NumPy's.

    Raises ValueError where they differ by more than rounding, or the kernel refuses.
    """
    import attnbench
    from attnbench import _core

    weights = attnbench.attention_weights(q, k, kernel=kernel, **mask)
    admitted = _core.mask(q.shape[-2], k.shape[-2], **mask)
    logits = q.astype(np.float64) @ np.swapaxes(k, -1, -2).astype(np.float64)
    logits = np.where(admitted, logits / np.sqrt(q.shape[-1]), -np.inf)
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    distance = float(np.abs(weights - expected).max())
    if not distance <= _TOLERANCE:
        raise ValueError(f"the kernel's weights differ from NumPy's by {distance:.1e}")
    return weights, distance


def informative_head(
    readings: Sequence[Reading], word: str | None = None, layer: int | None = None
) -> tuple[int, int]:
    """The head with the largest mean, over words, of the strongest look beyond the neighbours.

    A look is the weight less what all words give that key on average: a head in which everything
    looks at one word says nothing of any. Marks, the word itself and the words beside it do not
    count; with ``word`` only that word's look does, and of a pronoun only looks back. ``layer``
    restricts the choice.
    """
    model = tensors.reader("minilm")
    layers = range(len(readings[0].q)) if layer is None else [layer]
    best = (-1.0, 0, 0)
    for number in layers:
        scores = []
        for reading in readings:
            place = np.arange(len(reading.words))
            far = np.abs(np.subtract.outer(place, place)) > 1
            mark = np.array([text.startswith("[") for text in reading.labels])
            far &= ~mark[:, None] & ~mark[None, :]
            rows = place[~mark] if word is None else [reading.find(word)]
            if word in _PRONOUNS:
                far &= place[:, None] > place[None, :]
            if not far[rows].any():  # too short: neighbours have to do
                far = ~mark[:, None] & ~mark[None, :] & ~np.eye(len(place), dtype=bool)
            pieces = model.attention_weights(reading.q[number], reading.k[number])
            merged = np.stack([graph.merge_words(head, reading.words) for head in pieces])
            merged -= merged.mean(1, keepdims=True)
            scores.append((merged * far).max(2)[:, rows].mean(1))
        score = np.mean(scores, 0)
        best = max(best, (float(score.max()), number, int(score.argmax())))
    return best[1], best[2]


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_name(stem.name + suffix) for suffix in (".png", ".pdf")]
    with mpl.rc_context({"pdf.fonttype": 42}):
        for path in paths:
            figure.savefig(path, dpi=200, facecolor="white")
    plt.close(figure)
    return paths


def _slug(sentences: Sequence[str]) -> str:
    text = "-against-".join(
        re.sub(r"[^a-z0-9]+", "-", s.lower()).strip("-")[:64] for s in sentences
    )
    return text.strip("-") or "sentence"


@dataclass(frozen=True)
class Choice:
    """What to draw of a sentence, or of two."""

    layer: int | None
    head: int | None
    word: str | None
    threshold: float | None
    top: int | None
    kernel: str
    mask: dict[str, Any]


def show(sentences: Sequence[str], choice: Choice, folder: Path) -> list[Path]:
    """Draws one sentence, or two beside each other; the files. Raises ValueError."""
    readings = [read(sentence) for sentence in sentences]
    layers, heads = len(readings[0].q), len(readings[0].q[0])
    for name, value, count in (("layer", choice.layer, layers), ("head", choice.head, heads)):
        if value is not None and not 0 <= value < count:
            raise ValueError(f"--{name}: must lie in 0 ... {count - 1}, is {value}")
    layer, head, word = choice.layer, choice.head, choice.word
    if word is None and len(readings) == 1:
        word = next((text for text in readings[0].labels[1:] if text in _PRONOUNS), None)
    if layer is None or head is None:
        chosen_layer, chosen_head = informative_head(readings, word, layer)
        if head is None:
            layer, head = chosen_layer, chosen_head
        else:
            layer = chosen_layer
    where = f"MiniLM layer {layer} head {head}"
    if choice.mask:
        where += ", " + ", ".join(f"{k} {v}" for k, v in choice.mask.items())
    maps, graphs, distance = [], [], 0.0
    for reading in readings:
        q, k = reading.q[layer][head], reading.k[layer][head]
        pieces, difference = kernel_weights(q, k, choice.kernel, **choice.mask)
        distance = max(distance, difference)
        weights = graph.merge_words(pieces, reading.words)
        found = graph.attention_graph(weights, reading.labels, choice.threshold, choice.top)
        title = f"{where}\n\u201c{reading.sentence}\u201d"
        maps.append((weights, reading.labels, None, title))
        graphs.append((found, title.replace("\n", "   ")))
        print(f"{reading.sentence}\n  {where}: kernel and NumPy differ by at most {difference:.1e}")
        print(f"  graph: {found.rule}; {found.mass_kept:.0%} of all attention kept")
        if word:
            row = weights[reading.find(word)]
            seen = ", ".join(f"{reading.labels[j]} {row[j]:.2f}" for j in np.argsort(-row)[:4])
            print(f"  {word!r} looks at: {seen}")
    if len(readings) == 2:
        _print_shared(readings)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{_slug(sentences)}-layer{layer}-head{head}"
    longest = max(len(reading.words) for reading in readings)
    width = 7.0 if len(readings) > 1 or longest > 16 else 4.2
    paths = _save(heatmap.plot_panels(maps, width), stem.with_name(f"{stem.name}-heatmap"))
    width = 7.0 if longest > 8 else 4.2
    return paths + _save(graph.plot_graphs(graphs, width), stem.with_name(f"{stem.name}-graph"))


def _print_shared(readings: Sequence[Reading]) -> None:
    """How far context has moved the words that both sentences have."""
    first, second = readings
    for word in first.labels:
        if word.startswith("[") or word not in second.labels:
            continue
        a, b = (r.final[list(r.words[r.find(word)].pieces)].mean(0) for r in readings)
        cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        print(f"  {word!r}: cosine {cosine:.2f} between its final vectors in the two sentences")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sentence", nargs="?", metavar="SENTENCE")
    parser.add_argument("--against", metavar="SENTENCE", help="a second one to draw beside it")
    parser.add_argument("--examples", action="store_true", help="the sentences of the textbooks")
    parser.add_argument("--layer", type=int, help="0 ... 5")
    parser.add_argument("--head", type=int, help="0 ... 11")
    parser.add_argument("--word", help="choose the head in which this word looks hardest")
    parser.add_argument("--threshold", type=float, help="of the graph's edges (0.1)")
    parser.add_argument("--top", type=int, help="edges of every word, instead of a threshold")
    parser.add_argument("--kernel", default="auto", help="which kernel computes the weights")
    parser.add_argument("--causal", action="store_true", help="mask keys after the query")
    parser.add_argument("--pattern", choices=["full", "local", "strided", "columns", "fixed"])
    for name in ("window", "stride", "offset", "columns", "sinks"):
        parser.add_argument(f"--{name}", type=int, help="of the pattern")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("results/show"), metavar="DIR",
        help="where the pictures go (results/show)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    mask = {
        name: value
        for name in ("pattern", "causal", "window", "stride", "offset", "columns", "sinks")
        if (value := getattr(args, name)) not in (None, False)
    }
    try:
        if bool(args.sentence) == args.examples:
            raise ValueError("give either a SENTENCE or --examples")
        jobs = [(args.sentence, args.against, args.word)] if args.sentence else EXAMPLES
        for sentence, against, word in jobs:
            choice = Choice(
                args.layer,
                args.head,
                args.word or word,
                args.threshold,
                args.top,
                args.kernel,
                mask,
            )
            for path in show([s for s in (sentence, against) if s], choice, args.output):
                print(f"  {path}")
    except (ValueError, OSError) as error:
        print(f"attnbench show: {reason(error)}", file=sys.stderr)
        return 2
    return 0
