# SPDX-License-Identifier: Apache-2.0
"""Order: permuting the input permutes the output of self-attention, until something breaks that.

Without positions f(PX) = P f(X) for every permutation P (Vaswani et al. 2017, 3.5, add encodings
for that reason). The break of a variant is ||f(PX) - P f(X)|| / ||f(X)||: 0 where the layer is blind
to order, sqrt(2) where the two outputs have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import attnbench
from attnbench import _core
from attnbench.figures import style
from attnbench.studies import Claim, Finding, Picture, Study

N, HEADS, HEAD_DIM, WINDOW = 96, 4, 16, 8
MODEL = HEADS * HEAD_DIM
ROUNDING, VISIBLE = 1e-5, 1e-2  # at most: float32 rounding; at least: a break that matters
SENTENCES = ("dog bites man", "man bites dog")

Array = np.ndarray


def sinusoidal(n: int, d: int) -> Array:
    """Sine and cosine of position over wavelengths 2 pi ... 10000 2 pi, ``[n, d]`` (Vaswani et al.
    2017, 3.5)."""
    angle = np.arange(n)[:, None] / 10000 ** (np.arange(0, d, 2) / d)
    return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(n, d).astype(np.float32)


def rotary(x: Array) -> Array:
    """Pairs of columns of ``[..., n, d]`` turned by angles that grow with the position (Su et al.
    2021): products of two rows depend on the distance between them only."""
    *_, n, d = x.shape
    angle = np.arange(n)[:, None] / 10000 ** (np.arange(0, d, 2) / d)
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape).astype(np.float32)


def alibi(n: int, heads: int) -> Array:
    """-m |i - j| with slopes m = 2^(-8 h / heads), ``[heads, n, n]`` (Press et al. 2021)."""
    slope = 2.0 ** (-8 * np.arange(1, heads + 1) / heads)
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return (-slope[:, None, None] * distance).astype(np.float32)


def layer(
    x: Array,
    weights: tuple[Array, Array, Array],
    added: Array | None = None,
    turn: Callable[[Array], Array] = lambda a: a,
    **parameters: Any,
) -> Array:
    """Multi-head self-attention ``[n, model]`` by one of our kernels, with a position mechanism:
    ``added`` to x, ``turn`` of Q and K, or a mask or bias among the parameters."""
    x = x if added is None else x + added
    q, k, v = ((x @ w).reshape(len(x), HEADS, -1).transpose(1, 0, 2) for w in weights)
    out = attnbench.attention(turn(q), turn(k), v, **parameters)
    return out.transpose(1, 0, 2).reshape(len(x), -1)


def broken(f: Callable[[Array], Array], x: Array, order: Array) -> float:
    """||f(PX) - P f(X)|| / ||f(X)|| for the permutation ``order``."""
    y = f(x).astype(np.float64)
    return float(np.linalg.norm(f(x[order]) - y[order]) / np.linalg.norm(y))


def variants(random: np.random.Generator, n: int = N) -> dict[str, Callable[..., Array]]:
    """The layers by what tells them of order."""
    scale = MODEL**-0.5
    weights = tuple(
        (scale * random.standard_normal((MODEL, MODEL))).astype(np.float32) for _ in range(3)
    )
    table = random.standard_normal((n, MODEL)).astype(np.float32)
    f = partial(layer, weights=weights)
    return {
        "no positions": f,
        "sinusoidal": partial(f, added=sinusoidal(n, MODEL)),
        "learned table": partial(f, added=table),
        "rotary": partial(f, turn=rotary),
        "ALiBi": partial(f, bias=alibi(n, HEADS)),
        "causal mask": partial(f, causal=True),
        "local mask": partial(f, window=WINDOW),
    }


def real_model(positions: bool) -> float:
    """Cosine of the real model's vectors of two sentences of the same words."""
    from attnbench import tensors

    model = tensors.load_model("minilm")
    a, b = (model.embed(sentence, positions) for sentence in SENTENCES)
    return float(a @ b)


def serving(x: Array, f: Callable[..., Array]) -> list[str]:
    """The C++ kernels that solve the layer's problem."""
    found = []
    for info in _core.kernels():
        if info["host"] != "cpp" or info.get("kind", "attention") != "attention":
            continue
        try:
            f(x, kernel=info["name"])
        except ValueError:  # it refuses: another score, another pattern
            continue
        found.append(info["name"])
    return found


def run(folder: Path, quick: bool) -> Finding:
    random = np.random.default_rng(0)
    layers = variants(random)
    x = random.standard_normal((N, MODEL)).astype(np.float32)
    trials = 3 if quick else 20
    permutations = [random.permutation(N) for _ in range(trials)]
    swap = np.arange(N)
    swap[[N // 2, N // 2 + 1]] = swap[[N // 2 + 1, N // 2]]
    found: dict[str, dict[str, Any]] = {
        name: {
            "shuffled": [broken(f, x, order) for order in permutations],
            "reversed": broken(f, x, np.arange(N)[::-1]),
            "two neighbours swapped": broken(f, x, swap),
        }
        for name, f in layers.items()
    }
    plain = layers["no positions"]
    kernels = {
        name: max(broken(partial(plain, kernel=name), x, order) for order in permutations)
        for name in serving(x, plain)
    }
    shuffled = {name: float(np.median(found[name]["shuffled"])) for name in found}
    told = {name: value for name, value in shuffled.items() if name != "no positions"}
    least, most = min(told, key=told.__getitem__), max(told, key=told.__getitem__)
    backwards = {name: found[name]["reversed"] for name in told}
    blind = [name for name, value in backwards.items() if value <= ROUNDING]
    worst = max(kernels, key=kernels.__getitem__)
    claims = [
        Claim(
            f"without positions every kernel is equivariant to rounding ({ROUNDING:g})",
            f"{len(kernels)} kernels, the largest break {kernels[worst]:.1e} ({worst})",
            kernels[worst] <= ROUNDING,
        ),
        Claim(
            f"each encoding and each mask breaks it (by {VISIBLE:g} or more)",
            f"breaks of {told[least]:.2f} ({least}) to {told[most]:.2f} ({most})",
            all(value >= VISIBLE for value in told.values()),
        ),
        Claim(
            "what depends on |i - j| alone (ALiBi, the local mask) cannot tell a sequence from its"
            " reversal; the others can",
            "blind to reversal: " + (", ".join(blind) or "none"),
            set(blind) == {"ALiBi", "local mask"}
            and all(v >= VISIBLE for name, v in backwards.items() if name not in blind),
        ),
    ]
    numbers: dict[str, Any] = {
        "n": N, "heads": HEADS, "head_dim": HEAD_DIM, "window": WINDOW, "permutations": trials,
        "break": found, "break_by_kernel_without_positions": kernels,
    }  # fmt: skip
    text = [
        f"Over {trials} random permutations of {N} tokens the output of attention without positions"
        f" moves with its input: the break is {shuffled['no positions']:.1e}, float32 rounding. Each"
        f" encoding and mask breaks this, {least} least ({told[least]:.2f}) and {most} most"
        f" ({told[most]:.2f}), where 1.41 would be two unrelated outputs. A mask alone is therefore a"
        " position signal. Blind to reversal, as functions of |i - j| must be: "
        f"{' and '.join(blind) or 'none'}."
    ]
    if not quick:
        cosine, blind_cosine = real_model(True), real_model(False)
        numbers["real_model_cosine"] = {"as trained": cosine, "without positions": blind_cosine}
        text.append(
            f"The real model has learned positions: its vectors of “{SENTENCES[0]}” and"
            f" “{SENTENCES[1]}” have cosine {cosine:.3f}; with them taken away, {blind_cosine:.6f}."
        )
    return Finding(text, claims, numbers, [_picture(found, trials)])


def _picture(found: dict[str, dict[str, Any]], trials: int) -> Picture:
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, panel_in=2.5)
        at = axes[0, 0]
        names = list(found)
        kinds = (
            ("shuffled", style.Mark("#0072B2", "o", "none"), f"shuffled ({trials} permutations)"),
            ("two neighbours swapped", style.Mark("#009E73", "^", "none"), None),
            ("reversed", style.Mark("#D55E00", "s", "none"), None),
        )
        for shift, (kind, mark, _) in zip((-0.2, 0, 0.2), kinds):
            for place, name in enumerate(names):
                values = np.atleast_1d(found[name][kind])
                at.plot(np.maximum(values, 1e-8), [place + shift] * len(values), ls="none",
                        marker=mark.marker, color=mark.color, alpha=0.75)  # fmt: skip
        at.axvline(np.sqrt(2), color=style.FAINT, lw=0.8, ls=":")
        at.annotate("unrelated", (np.sqrt(2), -0.6), xytext=(3, 0), textcoords="offset points",
                    color=style.FAINT, fontsize="small", va="center")  # fmt: skip
        at.axvspan(1e-8, ROUNDING, color=style.GRID, alpha=0.45, lw=0)
        at.annotate("float32 rounding", (ROUNDING, -0.6), xytext=(-3, 0), fontsize="small",
                    textcoords="offset points", ha="right", va="center", color=style.FAINT)  # fmt: skip
        at.set_xscale("log")
        at.set_xlim(1e-8, 12)
        at.set_ylim(len(names) - 0.5, -1)
        at.set_yticks(range(len(names)), names)
        at.grid(visible=False, axis="y")
        at.set_xlabel("break of equivariance  ||f(PX) − P f(X)|| / ||f(X)||")
        handles = [style.handle(label or kind, mark) for kind, mark, label in kinds]
        footer = f"one layer, n = {N}, {HEADS} heads of {HEAD_DIM}, f32, random weights and tokens"
        style.finish(figure, footer, handles)
    return Picture(
        "equivariance", figure,
        "How far a permutation of the tokens does more than permute the output, by what tells the"
        " layer of order.",
    )  # fmt: skip


STUDY = Study(
    "order",
    "Does self-attention know the order of its tokens?",
    "Without positions it is equivariant under permutation, f(PX) = P f(X), and every encoding"
    " (sinusoidal, learned, rotary, ALiBi) and every causal or local mask breaks that (Vaswani et"
    " al. 2017, section 3.5).",
    run,
)
