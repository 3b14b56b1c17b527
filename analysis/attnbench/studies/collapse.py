# SPDX-License-Identifier: Apache-2.0
"""Rank collapse: attention alone averages its tokens until they are all the same; entropy by head.

Dong et al. 2021 ("Attention is not all you need"): the residual r(X) = ||X - 1 x^T|| / ||X||, with x
the mean token, falls doubly exponentially with depth in pure attention, and skip connections stop
that. Measured on random layers by our kernel, and on a real model with and without its skips.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

import attnbench
from attnbench import show, tensors
from attnbench.figures import style
from attnbench.studies import ROOT, Claim, Finding, Picture, Study

N, MODEL, HEADS, DEPTH = 64, 128, 4, 12
COLLAPSED, KEPT = 1e-3, 0.5  # residuals that count as one token, and as many
TEXT = ROOT / "experiments" / "text" / "library.txt"

Array = np.ndarray


def residual(x: Array) -> float:
    """||X - 1 mean^T|| / ||X||, Frobenius: 1 for centred tokens, 0 where all are the same."""
    x = x.astype(np.float64)
    return float(np.linalg.norm(x - x.mean(0)) / np.linalg.norm(x))


def random_layers(seed: int, depth: int, skip: bool, branch: float = 1.0) -> list[float]:
    """Residuals before and after each of ``depth`` layers of random multi-head attention: x becomes
    ``branch`` times attention of it, and with ``skip`` x is added."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((N, MODEL)).astype(np.float32)
    found = [residual(x)]
    for _ in range(depth):
        wq, wk, wv, wo = (
            (random.standard_normal((MODEL, MODEL)) * MODEL**-0.5).astype(np.float32)
            for _ in range(4)
        )
        # Logits of deviation 1 whatever the depth has done to the scale of x, as layer norm would
        # keep them: what collapses is the direction of the tokens.
        unit = (x / np.sqrt((x * x).mean())).astype(np.float32)
        mixed, _ = attnbench.self_attention(unit, wq, wk, wv, wo, heads=HEADS, kernel="flash")
        x = unit * skip + mixed * branch
        found.append(residual(x))
    return found


def real(sentences: list[str], skip: bool) -> Array:
    """Residuals of the real model ``[sentences, layers + 1]``."""
    model = tensors.load_model("minilm")
    rows = []
    for sentence in sentences:
        ids, _, _ = model.tokenizer.encode(sentence)
        *layers, last = model.forward(ids, skip=skip)
        rows.append([residual(x) for x in [*(layer.x for layer in layers), last]])
    return np.array(rows)


def entropies(text: str) -> Array:
    """Entropy of each head's rows, the mean over tokens / ln n, ``[layers, heads]``."""
    model = tensors.load_model("minilm")
    ids, _, _ = model.tokenizer.encode(text)
    *layers, _ = model.forward(ids)
    rows = []
    for layer in layers:
        w, _ = show.kernel_weights(layer.q[0], layer.k[0])
        w = w.astype(np.float64)
        rows.append(-(w * np.log(np.maximum(w, 1e-30))).sum(-1).mean(-1) / np.log(len(ids)))
    return np.array(rows)


def run(folder: Path, quick: bool) -> Finding:
    seeds = range(2 if quick else 10)
    curves = {
        "attention alone": [random_layers(s, DEPTH, skip=False) for s in seeds],
        "with skip": [random_layers(s, DEPTH, skip=True) for s in seeds],
        "with skip, branches / √depth": [random_layers(s, DEPTH, True, DEPTH**-0.5) for s in seeds],
    }
    median = {name: np.median(rows, 0) for name, rows in curves.items()}
    pure, kept, damped = median.values()
    depth = next((i for i, r in enumerate(pure) if r < COLLAPSED), None)
    ratios = pure[1:] / pure[:-1]
    usable = ratios[pure[1:] > 1e-6]
    text_lines = TEXT.read_text(encoding="utf-8")
    sentences = [s.strip() for s in text_lines.replace("\n", " ").split(". ") if len(s) > 60]
    sentences = sentences[: 5 if quick else 30]
    whole, bare = real(sentences, True), real(sentences, False)
    heads = entropies(text_lines)
    real_end, bare_end = float(np.median(whole[:, -1])), float(np.median(bare[:, -1]))
    claims = [
        Claim(
            f"attention alone collapses (residual under {COLLAPSED:g}) within {DEPTH} layers",
            f"after {depth} layers" if depth else f"not yet: {pure[-1]:.1e}",
            depth is not None,
        ),
        Claim(
            "and doubly exponentially: each layer takes a larger factor than the one before",
            "factors by layer " + ", ".join(f"1/{1 / r:.3g}" for r in usable),
            len(usable) > 2 and all(b < a for a, b in pairwise(usable)),
        ),
        Claim(
            f"skip connections keep the tokens apart (residual over {KEPT:g} after {DEPTH} layers)",
            f"{kept[-1]:.2f}, where {kept[4]:.2f} was left after 4 layers",
            kept[-1] > KEPT,
        ),
        Claim(
            "and do so where each branch is divided by the root of the depth (Noci et al. 2022)",
            f"residual {damped[-1]:.2f}",
            damped[-1] > KEPT,
        ),
        Claim(
            "the real model's tokens stay apart through its skips, and collapse without",
            f"residual after the last layer {real_end:.2f}, without skips {bare_end:.0e}",
            real_end > KEPT and bare_end < real_end / 10,
        ),
        Claim(
            "its heads differ: some look at one token, some at all",
            f"entropy / ln n of {heads.size} heads from {heads.min():.2f} to {heads.max():.2f},"
            f" median {np.median(heads):.2f}",
            heads.min() < 0.25 and heads.max() > 0.75,
        ),
    ]
    text = [
        f"Random layers of attention alone bring {N} tokens to a residual of {pure[-1]:.0e} in"
        f" {DEPTH} layers"
        + (f" (under {COLLAPSED:g} after {depth})" if depth else "")
        + f"; with skip connections {kept[-1]:.2f} is left, and {damped[-1]:.2f} where the branches are"
        f" divided by √{DEPTH}. The real model keeps {real_end:.2f} over"
        f" {len(sentences)} sentences and {bare_end:.0e} without its skips. Its heads' entropies"
        f" spread from {heads.min():.2f} to {heads.max():.2f} of ln n."
    ]
    numbers = {
        "n": N, "model": MODEL, "heads": HEADS, "depth": DEPTH, "seeds": len(seeds),
        "residuals": curves, "real_residuals": whole, "real_residuals_without_skip": bare,
        "entropy_over_ln_n": heads,
    }  # fmt: skip
    return Finding(text, claims, numbers, [_depth(curves, whole, bare), _entropy(heads)])


def _depth(curves: dict[str, list[list[float]]], whole: Array, bare: Array) -> Picture:
    marks = {
        "attention alone": style.Mark("#D55E00", "s", "-"),
        "with skip": style.Mark("#0072B2", "o", "-"),
        "with skip, branches / √depth": style.Mark("#009E73", "^", (0, (4, 1.5))),
    }
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, 1, 2, 2.4)
        for name, rows in curves.items():
            _band(axes[0, 0], np.array(rows), marks[name])
        axes[0, 0].set_yscale("log")
        axes[0, 0].set_title("random layers")
        _band(axes[0, 1], whole, marks["with skip"])
        _band(axes[0, 1], bare, marks["attention alone"])
        axes[0, 1].set_title("MiniLM, as trained and without its skips")
        axes[0, 1].set_ylim(0, 1.05)
        for at in axes[0]:
            at.set_xlabel("layers")
            at.set_ylabel("residual ||X − 1x̄ᵀ|| / ||X||")
        handles = [style.handle(name, mark) for name, mark in marks.items()]
        footer = (
            f"random: n = {N}, width {MODEL}, {HEADS} heads, {len(next(iter(curves.values())))}"
        )
        footer += f" seeds; MiniLM: {len(whole)} sentences; lines are medians, bands extremes"
        style.finish(figure, footer, handles)
    return Picture(
        "residual", figure, "How far tokens are from being all the same, by depth."
    )  # fmt: skip


def _band(at: style.Axes, rows: Array, mark: style.Mark) -> None:
    layers = np.arange(rows.shape[1])
    at.fill_between(layers, rows.min(0), rows.max(0), color=mark.color, alpha=0.15, lw=0)
    at.plot(layers, np.median(rows, 0), color=mark.color, marker=mark.marker, ls=mark.dash)


def _entropy(heads: Array) -> Picture:
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(4.6, panel_in=2.2)
        at = axes[0, 0]
        image = at.imshow(heads, cmap="Blues_r", vmin=0, vmax=1, aspect="auto")
        for (layer, head), value in np.ndenumerate(heads):
            at.text(head, layer, f"{value:.2f}"[1:], ha="center", va="center", fontsize=5.5,
                    color="white" if value < 0.45 else style.INK)  # fmt: skip
        at.set_xticks(range(heads.shape[1]))
        at.set_yticks(range(heads.shape[0]))
        at.set_xlabel("head")
        at.set_ylabel("layer")
        at.grid(visible=False)
        figure.colorbar(image, ax=at, pad=0.02).outline.set_visible(False)
        at.set_title("entropy / ln n: dark looks at few tokens")
        style.finish(figure, "MiniLM over 512 tokens of experiments/text/library.txt")
    return Picture("entropy", figure, "How spread each head's attention is.")


STUDY = Study(
    "collapse",
    "Do tokens become all the same as layers of attention are stacked?",
    "In pure attention the tokens collapse to one, doubly exponentially with depth; skip connections"
    " prevent it (Dong et al. 2021). In a trained model heads differ in how many tokens they look at.",
    run,
)
