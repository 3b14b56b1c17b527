# SPDX-License-Identifier: Apache-2.0
"""Self-attention against Luong's: the same sum, within one sequence or between two.

Luong et al. 2015: e_ij = s_i . h_j, a = softmax(e), c_i = sum_j a_ij h_j for decoder states s and
encoder states h. With s = h it is self-attention with K = V = h and scale 1; with the general score
s W h and W = Wq Wk^T / sqrt(d) it is self-attention with projections, but for Wv, which can as well
be applied to the context.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import attnbench
from attnbench import heatmap, show
from attnbench.figures import style
from attnbench.studies import Claim, Finding, Picture, Study

N, WIDTHS = 64, (8, 16, 32, 64, 128, 256, 512)
PAIR = ("turn off the lights", "please switch the lamps off")
TOLERANCE = 1e-5

Array = np.ndarray


def ulps(a: Array, b: Array) -> int:
    """The largest distance between two float32 arrays in units of the last place."""
    ordered = []
    for x in (a, b):
        bits = np.ascontiguousarray(x, np.float32).view(np.int32).astype(np.int64)
        ordered.append(np.where(bits < 0, -(bits & 0x7FFFFFFF), bits))
    return int(np.abs(ordered[0] - ordered[1]).max())


def softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def entropy(weights: Array) -> float:
    """Mean over rows, in nats."""
    w = weights.astype(np.float64)
    return float(-(w * np.log(np.maximum(w, 1e-300))).sum(-1).mean())


def by_kernel(h: Array) -> dict[str, int]:
    """Units of the last place between self-attention with K = V = h, scale 1, and Luong's dot
    attention, for every kernel that serves both."""
    found = {}
    for info in attnbench.kernels():
        if info["host"] != "cpp":
            continue
        try:
            own = attnbench.attention(h, h, h, kernel=info["name"], scale=1.0)
            luong, _ = attnbench.luong_attention(h, h, "dot", kernel=info["name"])
        except ValueError:  # it refuses one of the two
            continue
        found[info["name"]] = ulps(own, luong)
    return found


def projected(h: Array, wq: Array, wk: Array, wv: Array) -> tuple[float, float]:
    """Largest differences of weights and output: self-attention with projections, and Luong's
    general score with W = Wq Wk^T / sqrt(d), its context times Wv."""
    output, weights = attnbench.self_attention(h, wq, wk, wv)
    w = (wq.astype(np.float64) @ wk.T / np.sqrt(wq.shape[1])).astype(np.float32)
    context, alpha = attnbench.luong_attention(h, h, "general", w=w)
    return float(np.abs(weights[0] - alpha).max()), float(np.abs(output - context @ wv).max())


def scaling(random: np.random.Generator, n: int, d: int, trials: int) -> dict[str, float]:
    """Mean entropy over ln n, and mean weight of a token on itself, for states N(0, 1)."""
    rows = []
    for _ in range(trials):
        h = random.standard_normal((n, d)).astype(np.float32)
        wq, wk = (random.standard_normal((d, d)).astype(np.float32) * d**-0.5 for _ in "qk")
        weights = {
            "dot": attnbench.luong_attention(h, h, "dot")[1],
            "scaled": attnbench.attention_weights(h, h),
            "projected": attnbench.attention_weights(h @ wq, h @ wk, scale=1.0),
            "projected, scaled": attnbench.attention_weights(h @ wq, h @ wk),
        }
        rows.append(
            {f"{k} entropy": entropy(w) / np.log(n) for k, w in weights.items()}
            | {f"{k} on itself": float(np.trace(w)) / n for k, w in weights.items()}
        )
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def run(folder: Path, quick: bool) -> Finding:
    random = np.random.default_rng(0)
    widths = WIDTHS[:4] if quick else WIDTHS
    h = random.standard_normal((N, 64)).astype(np.float32)
    same = by_kernel(h)
    wide = h.astype(np.float64)
    context, _ = attnbench.luong_attention(h, h, "dot")
    formula = float(np.abs(context - softmax(wide @ wide.T) @ wide).max())
    maps = [random.standard_normal((64, 64)).astype(np.float32) / 8 for _ in range(3)]
    weights_apart, outputs_apart = projected(h, *maps)
    table = {d: scaling(random, N, d, 2 if quick else 8) for d in widths}
    d0, d1 = widths[0], widths[-1]
    raw, scaled = ([table[d][f"{k} entropy"] for d in widths]
                   for k in ("projected", "projected, scaled"))  # fmt: skip
    spread = max(scaled) - min(scaled)
    itself = table[d1]["scaled on itself"], table[d1]["projected, scaled on itself"]
    claims = [
        Claim(
            "with K = V = h and scale 1 self-attention is Luong's dot attention, to the last bits",
            ", ".join(f"{name} {u} ulp" for name, u in same.items())
            + f"; both within {formula:.0e} of the formula in float64",
            bool(same) and max(same.values()) <= 4 and formula <= TOLERANCE,
        ),
        Claim(
            "with projections it is Luong's general score with W = Wq Wk^T / sqrt(d), Wv applied"
            " after",
            f"weights within {weights_apart:.0e}, outputs within {outputs_apart:.0e}",
            max(weights_apart, outputs_apart) <= TOLERANCE,
        ),
        Claim(
            "without the scale 1/sqrt(d) the softmax saturates as d grows; with it its entropy stays",
            f"entropy / ln n from {raw[0]:.2f} (d = {d0}) to {raw[-1]:.2f} (d = {d1}); with the scale"
            f" {scaled[0]:.2f} to {scaled[-1]:.2f}",
            raw[-1] < 0.5 * raw[0] and spread < 0.1,
        ),
        Claim(
            "without projections a token sees itself above all; with them it need not",
            f"weight on itself at d = {d1}, scaled: {itself[0]:.2f} without, {itself[1]:.3f} with"
            f" (1/n = {1 / N:.3f})",
            itself[0] > 0.5 > 5 * itself[1],
        ),
    ]
    text = [
        f"Self-attention with K = V = h and scale 1 and Luong's dot attention of the sequence with"
        f" itself differ by at most {max(same.values(), default=-1)} units of the last place in"
        f" {len(same)} kernels. With projections it is Luong's general score with W = Wq Wkᵀ/√d"
        f" (weights within {weights_apart:.0e}). What the Transformer adds is thus the scale, without"
        f" which the entropy falls from {raw[0]:.2f} to {raw[-1]:.2f} of ln n between d = {d0} and"
        f" {d1}, and projections that let a token look past itself (its weight on itself falls from"
        f" {itself[0]:.2f} to {itself[1]:.3f}). What makes it “self” is where queries and keys come"
        " from: one sequence, or two."
    ]
    numbers = {
        "n": N, "ulps_by_kernel": same, "formula_apart": formula,
        "projected_weights_apart": weights_apart,
        "projected_outputs_apart": outputs_apart, "by_width": table,
    }  # fmt: skip
    return Finding(text, claims, numbers, [_scales(table), _intra_inter()])


def _scales(table: dict[int, dict[str, float]]) -> Picture:
    kinds = {
        "dot": ("K = V = h, scale 1 (Luong's dot)", style.Mark("#D55E00", "s", "-")),
        "scaled": ("K = V = h, scale 1/√d", style.Mark("#E69F00", "D", "-")),
        "projected": ("projections, scale 1", style.Mark("#009E73", "^", (0, (4, 1.5)))),
        "projected, scaled": ("projections, scale 1/√d", style.Mark("#0072B2", "o", "-")),
    }
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, 1, 2, 2.2)
        for at, what, label in (
            (axes[0, 0], "entropy", "entropy of the weights / ln n"),
            (axes[0, 1], "on itself", "weight of a token on itself"),
        ):
            for kind, (_, mark) in kinds.items():
                at.plot(list(table), [row[f"{kind} {what}"] for row in table.values()],
                        color=mark.color, marker=mark.marker, ls=mark.dash)  # fmt: skip
            style.log_sizes(at, list(table), "width d")
            at.set_ylabel(label)
            at.set_ylim(-0.03, 1.03)
        handles = [style.handle(name, mark) for name, mark in kinds.values()]
        style.finish(figure, f"n = {N}, states N(0, 1), f32, one head", handles)
    return Picture(
        "scale", figure,
        "What the scale and the projections change: how spread the weights are, and how much of a"
        " token's attention goes to itself, over the width.",
    )  # fmt: skip


def _intra_inter() -> Picture:
    """Luong's dot attention within one sentence and between two, on the real model's states."""
    readings = [show.read(sentence) for sentence in PAIR]
    states: list[Any] = []
    for reading in readings:
        rows = np.array(
            [reading.final[list(w.pieces)].mean(0) for w in reading.words if w.text[0] != "["]
        )
        # Centred: what all states share says nothing of a word.
        rows = rows - rows.mean(0)
        states.append((rows / np.linalg.norm(rows, axis=1, keepdims=True) * 2.5).astype(np.float32))
    names = [[w.text for w in r.words if w.text[0] != "["] for r in readings]
    target, source = states[1], states[0]
    panels = []
    for queries, labels, title in (
        (source, names[0], "intra-sequence: self"),
        (target, names[1], "inter-sequence: Luong"),
    ):
        _, weights = attnbench.luong_attention(queries, source, "dot")
        panels.append((weights, labels, names[0], title))
    return Picture(
        "intra-inter", heatmap.plot_panels(panels, 6.0),
        f"One formula, two sources of queries: “{PAIR[0]}” looks at itself, and “{PAIR[1]}” looks at"
        " it. Dot scores of MiniLM's last states, centred over the sentence and of length 2.5.",
    )  # fmt: skip


STUDY = Study(
    "self_luong",
    "What is “self” in self-attention, against Luong's attention between two sequences?",
    "The same scores, softmax and weighted sum: with K = V = h and scale 1 the two agree to the last"
    " bits, and self-attention adds projections and the scale 1/√d, which keeps the softmax from"
    " saturating (Luong et al. 2015, 3.1; Vaswani et al. 2017, 3.2.1).",
    run,
)
