# SPDX-License-Identifier: Apache-2.0
"""The parameters of calibrated inputs ([input] kind = "calibrated"), fitted to heads of a model.

Three numbers a head (harness/calibrated_inputs.h): the deviation of Gaussian content, the exponent
of a fall with distance, the logit of the first key. They are fitted so that generated Q and K
measure as the head does: entropy, mass of the heaviest eighth of the keys, exponent of the fall of
the weights with distance, mass of key 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attnbench import sparsity

HEADS = 8  # of the table
SHARE = 8  # the heaviest of so many keys
# What a miss of one counts as in the fit.
_SCALES = np.array([0.3, 0.05, 0.15, 0.05])

Array = np.ndarray


class Measures(NamedTuple):
    """Of one head, means over rows: see ``measure``."""

    entropy: float
    top_mass: float
    exponent: float
    first_key: float


def measure(q: Array, k: Array) -> Measures:
    """Of q and k ``[n, head_dim]``: entropy in nats, the mass of the heaviest n / 8 keys of each
    row, the locality exponent of ``sparsity.shape``, the mass of key 0."""
    from attnbench.transformer import attention_weights

    shape = sparsity.shape(q[None], k[None])
    weights = attention_weights(q.astype(np.float64), k.astype(np.float64))
    top = np.partition(weights, -(len(k) // SHARE), axis=1)[:, -(len(k) // SHARE) :].sum(1).mean()
    return Measures(
        float(shape.entropy[0]), float(top), float(shape.locality[0]), float(shape.first_key[0])
    )


def generate(n: int, head_dim: int, parameters: Any, seed: int = 0) -> Measures:
    """What generated Q and K of deviation, locality and sink measure."""
    from attnbench import _core

    deviation, locality, sink = np.maximum(parameters, (0, 0, -20))
    return measure(
        *_core.calibrated(n, head_dim, deviation=deviation, locality=locality, sink=sink, seed=seed)
    )


def fit(wanted: Measures, n: int, head_dim: int) -> tuple[float, float, float]:
    """Deviation, locality and sink whose Q and K measure nearest to ``wanted``."""
    from scipy.optimize import minimize

    def loss(parameters: Array) -> float:
        misses = (np.array(tuple(generate(n, head_dim, parameters))) - tuple(wanted)) / _SCALES
        return float(misses @ misses) + float(np.minimum(parameters[:2], 0) @ [-1e3, -1e3])

    # Where the logits' deviation is all content's, the fall with distance the weights', and the sink
    # stands out of n - 1 other keys.
    first = min(max(wanted.first_key, 1 / n), 0.9)
    start = (1.0, max(wanted.exponent, 0.1), np.log(n * first / (1 - first)) - 1)
    best = minimize(loss, start, method="Nelder-Mead",
                    options={"maxfev": 80, "xatol": 0.02, "fatol": 0.01})  # fmt: skip
    deviation, locality, sink = (round(float(x), 3) for x in best.x)
    return max(deviation, 0.0), max(locality, 0.0), sink


def spread(layers: Sequence[Any], count: int = HEADS) -> list[tuple[int, int]]:
    """Layer and head of ``count`` heads, from the most local to the least, evenly in rank."""
    local = np.array([sparsity.shape(layer.q[0], layer.k[0]).local for layer in layers])
    order = np.argsort(-local, axis=None)
    ranks = ((np.arange(count) + 0.5) * order.size / count).astype(int)
    return [divmod(int(i), local.shape[1]) for i in order[ranks]]


def write_table(model: str, layers: Sequence[Any], path: Path, count: int = HEADS) -> list[str]:
    """Fits heads of the model and writes the generator's table; lines for the reader."""
    n, head_dim = layers[0].q.shape[2:]
    rows = [
        "// SPDX-License-Identifier: Apache-2.0",
        "// Written by `attnbench tensors calibrate`: model, layer, head, tokens, head_dim, deviation,",
        "// locality, sink, and what the head measures: entropy, top_mass, exponent, first_key.",
        "// clang-format off",
    ]
    names = ("entropy", "top mass", "exponent", "key 0")
    lines = [f"{'head':>8}{'deviation':>11}{'locality':>10}{'sink':>7}  "
             + "".join(f"{name:>18}" for name in names)]  # fmt: skip
    for layer, head in spread(layers, count):
        wanted = measure(layers[layer].q[0, head], layers[layer].k[0, head])
        found = fit(wanted, n, head_dim)
        got = generate(n, head_dim, found, seed=1)
        place = f"{layer}.{head}"
        lines.append(f"{place:>8}{found[0]:11.2f}{found[1]:10.2f}{found[2]:7.2f}  "
                     + "".join(f"{a:10.2f} ({b:.2f})" for a, b in zip(got, wanted)))  # fmt: skip
        numbers = ", ".join(f"{x:.4g}" for x in (*found, *wanted))
        rows.append(f'{{"{model}", {layer}, {head}, {n}, {head_dim}, {numbers}}},')
    path.write_text("\n".join(rows) + "\n")
    return [*lines, "generated with another seed, in brackets the model's own"]
