# SPDX-License-Identifier: Apache-2.0
"""Reach: how much the last output still depends on an input k tokens back, ||dy_n / dx_(n-k)||.

Through a recurrence the gradient is a product of k Jacobians and fades or explodes exponentially
(Bengio et al. 1994; Hochreiter and Schmidhuber 1997 built the LSTM against it); through L windows of
w tokens it ends at L w exactly; through full attention every token is one step away. Layers as they
are initialised, by PyTorch's gradients; where the windows end, our kernel says by perturbation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import attnbench
from attnbench.figures import style
from attnbench.studies import Claim, Finding, Picture, Study

if TYPE_CHECKING:
    from torch import Tensor

N, WIDTH, LAYERS, WINDOW = 256, 64, 4, 24
FADED = 1e-3  # of the influence at distance 1
FLAT = 10.0  # full attention: influences within this factor count as equal

Array = np.ndarray


def models(seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Sequence layers ``[n, width] -> [n, width]`` with fresh weights, float64."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    rnn, orthogonal = (nn.RNN(WIDTH, WIDTH).double() for _ in range(2))
    nn.init.orthogonal_(orthogonal.weight_hh_l0)
    lstm, open_lstm = (nn.LSTM(WIDTH, WIDTH).double() for _ in range(2))
    with torch.no_grad():  # gates i, f, g, o: a forget gate that starts open (Gers et al. 2000)
        open_lstm.bias_hh_l0[WIDTH : 2 * WIDTH] = 3.0
        open_lstm.bias_ih_l0[WIDTH : 2 * WIDTH] = 0.0
    gru = nn.GRU(WIDTH, WIDTH).double()
    maps = torch.randn(LAYERS, 3, WIDTH, WIDTH, dtype=torch.float64) / WIDTH**0.5

    def attention(x: Tensor, layer: int, window: int | None) -> Tensor:
        q, k, v = (x @ w for w in maps[layer])
        logits = q @ k.T / WIDTH**0.5
        place = torch.arange(len(x))
        behind = place[:, None] - place[None, :]
        admitted = (behind >= 0) & (behind <= (len(x) if window is None else window))
        return torch.softmax(logits.masked_fill(~admitted, float("-inf")), -1) @ v

    def stacked(x: Tensor) -> Tensor:
        for layer in range(LAYERS):
            x = x + attention(x, layer, WINDOW)
            x = nn.functional.layer_norm(x, (WIDTH,))
        return x

    return {
        "RNN": lambda x: rnn(x)[0],
        "RNN, orthogonal": lambda x: orthogonal(x)[0],
        "GRU": lambda x: gru(x)[0],
        "LSTM": lambda x: lstm(x)[0],
        "LSTM, forget gate open": lambda x: open_lstm(x)[0],
        "local windows": stacked,
        "full attention": lambda x: attention(x, 0, None),
    }


def influence(f: Callable[[Tensor], Tensor], n: int, seed: int, probes: int = 4) -> Array:
    """||d(u . y_n) / dx_(n-k)|| for k = 0 ... n - 1, the mean over random unit vectors u."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)
    last = f(x)[-1]
    rows = []
    for _ in range(probes):
        u = torch.randn(WIDTH, dtype=torch.float64, generator=generator)
        (gradient,) = torch.autograd.grad(last @ (u / u.norm()), x, retain_graph=True)
        rows.append(gradient.norm(dim=1).flip(0).numpy())
    return np.mean(rows, 0)


def fades_at(curve: Array) -> int:
    """The first distance from which on the influence stays under FADED of that at distance 1."""
    above = np.flatnonzero(curve >= FADED * curve[1])
    return int(above[-1]) + 1


def window_ends_at(layers: int, window: int, n: int, seed: int = 0) -> int:
    """How far a change of token 0 comes through ``layers`` causal windows of our kernel, in
    tokens: the last output that is not the same to the last bit."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, WIDTH)).astype(np.float32)
    maps = (random.standard_normal((layers, 3, WIDTH, WIDTH)) / 8).astype(np.float32)

    def run(x: Array) -> Array:
        for wq, wk, wv in maps:
            q, k, v = x @ wq, x @ wk, x @ wv
            x = x + attnbench.attention(q, k, v, kernel="local_window", window=window, causal=True)
        return x

    changed = x.copy()
    changed[0] += 1
    return int(np.flatnonzero((run(x) != run(changed)).any(1))[-1])


def run(folder: Path, quick: bool) -> Finding:
    import torch

    torch.set_num_threads(1)
    n, seeds = (128, 2) if quick else (N, 5)
    curves: dict[str, list[Array]] = {}
    for seed in range(seeds):
        for name, f in models(seed).items():
            curves.setdefault(name, []).append(influence(f, n, seed))
    median = {name: np.median(rows, 0) for name, rows in curves.items()}
    fades = {name: fades_at(curve) for name, curve in median.items()}
    end = LAYERS * WINDOW
    kernel_end = window_ends_at(LAYERS, WINDOW, n)
    beyond = float(np.max(median["local windows"][end + 1 :]))
    full = median["full attention"][1:]
    spread = float(np.quantile(full, 0.95) / np.quantile(full, 0.05))
    rate = {
        name: float(np.exp(np.polyfit(np.arange(1, 9), np.log(median[name][1:9]), 1)[0]))
        for name in median
        if name != "local windows" and name != "full attention"
    }
    claims = [
        Claim(
            f"an RNN's influence fades exponentially, to {FADED:g} within 50 tokens",
            f"by {rate['RNN']:.2f} a token, {FADED:g} at {fades['RNN']} tokens",
            fades["RNN"] < 50 and rate["RNN"] < 0.9,
        ),
        Claim(
            "an LSTM's lasts longer",
            f"{fades['LSTM']} tokens as initialised, "
            + _over(fades["LSTM, forget gate open"], n)
            + f" with its forget gate open; the RNN's {fades['RNN']}",
            fades["LSTM"] > fades["RNN"],
        ),
        Claim(
            f"through {LAYERS} windows of {WINDOW} it ends at {end} tokens exactly",
            f"gradient beyond: {beyond:g}; our kernel's last changed output: {kernel_end}",
            beyond == 0 and kernel_end == end,
        ),
        Claim(
            f"through full attention it does not depend on the distance (within {FLAT:g} times)",
            f"nine tenths of the tokens lie within {spread:.1f} times of each other",
            spread < FLAT,
        ),
    ]
    text = [
        f"The influence of a token falls under {FADED:g} of its nearest neighbour's after"
        f" {fades['RNN']} tokens in an RNN, {fades['GRU']} in a GRU, {fades['LSTM']} in an LSTM as"
        f" initialised and {_over(fades['LSTM, forget gate open'], n)} with its forget gate open; it"
        f" is 0 past {kernel_end} tokens in {LAYERS} windows of {WINDOW}, and through full attention"
        f" differs by {spread:.1f} times over {n} tokens (rank correlation"
        f" with the distance {_trend(full):+.2f}). Gates move the recurrence's limit; they do not"
        " remove the distance."
    ]
    numbers = {
        "n": n, "width": WIDTH, "layers": LAYERS, "window": WINDOW, "seeds": seeds,
        "influence": {k: np.array(v) for k, v in curves.items()}, "fades_at": fades,
        "factor_a_token": rate, "kernel_window_ends_at": kernel_end, "full_spread": spread,
    }  # fmt: skip
    return Finding(text, claims, numbers, [_picture(curves, n, end)])


def _over(distance: int, n: int) -> str:
    return f"over {n - 1} tokens" if distance >= n else f"{distance} tokens"


def _trend(curve: Array) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(np.arange(len(curve)), curve).statistic)


def _picture(curves: dict[str, list[Array]], n: int, end: int) -> Picture:
    marks = {
        "RNN": style.Mark("#D55E00", "", "-"),
        "RNN, orthogonal": style.Mark("#D55E00", "", (0, (4, 1.5))),
        "GRU": style.Mark("#E69F00", "", "-"),
        "LSTM": style.Mark("#882255", "", "-"),
        "LSTM, forget gate open": style.Mark("#882255", "", (0, (4, 1.5))),
        "local windows": style.Mark("#009E73", "", "-"),
        "full attention": style.Mark("#0072B2", "", "-"),
    }
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, panel_in=2.7)
        at = axes[0, 0]
        distance = np.arange(1, n)
        for name, rows in curves.items():
            scaled = np.array([row[1:] / row[1] for row in rows])
            mark = marks[name]
            shown = np.where(scaled > 0, scaled, np.nan)
            if name == "local windows":
                shown[:, end:] = np.nan
            at.fill_between(
                distance, shown.min(0), shown.max(0), color=mark.color, alpha=0.12, lw=0
            )
            at.plot(distance, np.median(shown, 0), color=mark.color, ls=mark.dash)
        at.axvline(end, color=marks["local windows"].color, lw=0.8, ls=":")
        at.annotate(f"windows end: {LAYERS} × {WINDOW}", (end, 3e-12), xytext=(4, 0),
                    textcoords="offset points", color=style.FAINT, fontsize="small")  # fmt: skip
        at.axhline(FADED, color=style.FAINT, lw=0.6, ls=":")
        at.set_xscale("log", base=2)
        at.set_yscale("log")
        at.set_ylim(1e-12, 100)
        style.log_sizes(at, [1, 2, 4, 8, 16, 32, 64, 128, 256][: int(np.log2(n)) + 1],
                        "distance in tokens")  # fmt: skip
        at.set_ylabel("influence, of that at distance 1")
        handles = [style.handle(name, mark) for name, mark in marks.items()]
        footer = f"width {WIDTH}, f64, as initialised; medians and extremes of"
        style.finish(figure, f"{footer} {len(next(iter(curves.values())))} seeds", handles)
    return Picture(
        "influence", figure, "How the last output's dependence on a token fades with its distance."
    )


STUDY = Study(
    "reach",
    "How far back can a layer see?",
    "A recurrence forgets exponentially, an LSTM later than a plain RNN (Hochreiter and Schmidhuber"
    " 1997); L stacked windows of w see L w tokens (Beltagy et al. 2020); full attention sees all"
    " tokens alike, one step away (Vaswani et al. 2017, table 1).",
    run,
    extras=("experiments",),
)
