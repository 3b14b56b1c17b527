# SPDX-License-Identifier: Apache-2.0
"""What a sparse pattern keeps of dense attention: patterns at a budget of keys, and measures.

A budget is the mean number of admitted keys a row. Patterns fit one parameter to it and hold the
rest; where none comes within a tenth, the pattern has no place at that budget. Beside the patterns
that depend on positions alone stand blocks chosen by content, as a kernel chooses them, and controls:
the heaviest keys of each row (no mask of as many keys keeps more mass), the heaviest columns of a
head, and random keys.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from attnbench import _core

SINKS = 4  # StreamingLLM's (Xiao et al. 2023)
DILATION = 2
TILE = 8  # keys to a side of BigBird's tiles: small, as the texts are short; of shorter ones, 2
BLOCK = 16  # keys that are chosen together
CHOSEN = "chosen blocks"
_TILES = ("tile", "band", "dilation", "global_tiles", "random_tiles")
NEAR = 0.1  # of a budget, and a pattern counts as one of it
# Whose keys depend on the weights or on chance; a number of keys is all they need.
CONTROLS = ("best keys", "best columns", "random keys")

Array = np.ndarray


@dataclass(frozen=True)
class Pattern:
    """``mask``: as experiment files have it; ``admitted``: ``[n, n]`` bool, rows are queries."""

    words: str
    admitted: Array
    mask: dict[str, Any]
    kernel: str

    @property
    def keys(self) -> float:
        """The mean number of admitted keys a row."""
        return float(self.admitted.sum(1).mean())

    @property
    def arguments(self) -> dict[str, Any]:
        """The mask as ``attnbench.attention`` takes it."""
        return arguments(len(self.admitted), self.mask)


def arguments(n: int, mask: dict[str, Any]) -> dict[str, Any]:
    """A mask of experiment files as keyword arguments: tiles are a list there, not its numbers."""
    if mask["pattern"] != "tiles":
        return mask
    spec = {name: mask[name] for name in _TILES if name in mask}
    rest = {name: value for name, value in mask.items() if name not in _TILES}
    tiles = _core.tiles(n, n, causal=mask.get("causal", False), **spec)
    return rest | {"tile": mask["tile"], "tiles": tiles}


def served(kernel: str, words: str, n: int, **mask: Any) -> Pattern:
    """A pattern that a kernel of the registry serves."""
    return Pattern(words, _core.mask(n, n, **arguments(n, mask)), mask, kernel)


def _families(n: int, causal: bool) -> dict[str, tuple[Callable[[int], Pattern], range]]:
    """By name: the pattern of a parameter, and its values, along which keys grow."""
    stride, tile = max(n // 8, 2), TILE if n >= 256 else 2

    def made(kernel: str, words: str, n: int, **mask: Any) -> Pattern:
        return served(kernel, words, n, **mask, **({"causal": True} if causal else {}))

    def columns(offset: int) -> Callable[[int], Pattern]:
        return lambda w: made("sparse_strided", f"±{w}, j mod {stride} = {offset}", n,
                                pattern="columns", window=w, stride=stride, offset=offset)  # fmt: skip

    def fixed(length: int) -> Pattern:
        last = max(1, length // 16)  # Child et al. 2019: 8 of 128 to 32 of 256
        return made("sparse_strided", f"blocks of {length}, last {last}", n, pattern="fixed",
                      stride=length, columns=last)  # fmt: skip

    widths = range(1, n)
    return {
        "local": (
            lambda w: made("local_window", f"±{w}", n, pattern="local", window=w), widths),
        "sinks + local": (
            lambda w: made("local_window", f"{SINKS} sinks, ±{w}", n, pattern="local",
                             window=w, sinks=SINKS), widths),
        "columns": (columns(stride - 1), widths),
        "columns with key 0": (columns(0), widths),
        "strided": (
            lambda w: made("sparse_strided", f"±{w}, p - j mod {stride} = 0", n,
                             pattern="strided", window=w, stride=stride), widths),
        "fixed": (fixed, range(math.isqrt(n), n)),
        "dilated": (
            lambda w: made("block_sparse", f"{w} a side, every {DILATION}nd", n, pattern="tiles",
                             tile=1, band=w, dilation=DILATION), widths),
        "global + local": (
            lambda w: made("block_sparse", f"{SINKS} global tokens, ±{w}", n, pattern="tiles",
                             tile=1, band=w, global_tiles=SINKS), widths),
        "BigBird": (
            lambda r: made("block_sparse", f"{tile}: ±1 tile, 1 global, {r} random", n,
                             pattern="tiles", tile=tile, band=1, global_tiles=1, random_tiles=r),
            range(1, max(n // tile, 2))),
    }  # fmt: skip


FAMILIES = (
    "local", "sinks + local", "columns", "columns with key 0", "strided", "fixed", "dilated",
    "global + local", "BigBird",
)  # fmt: skip


@cache
def at_budget(n: int, keys: int, causal: bool = False) -> dict[str, Pattern]:
    """Each family's pattern whose mean number of keys a row is nearest to ``keys``; a family is
    left out where that differs by over a tenth."""
    found = {}
    for name, (make, values) in _families(n, causal).items():
        parameters = values[: 2 * keys]  # each admits about as many keys or more
        above = bisect.bisect_left(parameters, float(keys), key=lambda value: make(value).keys)
        around = {parameters[max(above - 1, 0)], parameters[min(above, len(parameters) - 1)]}
        nearest = min(map(make, around), key=lambda pattern: abs(pattern.keys - keys))
        if abs(nearest.keys - keys) <= NEAR * keys:
            found[name] = nearest
    return found


def best_keys(weights: Array, keys: int) -> Array:
    """The ``keys`` heaviest of each row of ``[..., n, m]``: bool of that shape."""
    chosen = np.argpartition(weights, -keys, axis=-1)[..., -keys:]
    admitted = np.zeros(weights.shape, bool)
    np.put_along_axis(admitted, chosen, True, axis=-1)
    return admitted


def chosen_blocks(q: Array, k: Array, keys: int, causal: bool = False) -> Array:
    """What the kernel top_blocks chooses for each head of q, k ``[heads, n, d]``, float32, as it
    would alone: ``[heads, n, n]`` bool. Values of an identity matrix show the weights, which
    are zero outside the blocks alone: the exponentials of masked keys are small, but not zero."""
    n = k.shape[1]
    shown = np.eye(n, dtype=np.float32)
    found = [
        _core.attention(
            a, b, shown, kernel="top_blocks", causal=causal, options=block_options(keys)
        )
        for a, b in zip(q, k)
    ]
    admitted = np.array(found) > 0
    return np.tril(admitted) if causal else admitted


def block_options(keys: int) -> dict[str, int]:
    """The options of top_blocks for a number of keys a row."""
    return {"block": BLOCK, "blocks": max(2, round(keys / BLOCK))}


def chosen_keys(n: int, keys: int, causal: bool = False) -> float:
    """The mean number of keys a row that ``chosen_blocks`` admits, whatever it chooses."""
    blocks = block_options(keys)["blocks"]
    if not causal:
        return float(min(blocks * BLOCK, n))
    rows = np.arange(n)
    whole = np.minimum(blocks - 1, rows // BLOCK)  # beside the own block
    return float((whole * BLOCK + rows % BLOCK + 1).mean())


def best_columns(weights: Array, keys: int) -> Array:
    """For all rows the same: the ``keys`` columns of the largest mean weight."""
    means = np.broadcast_to(weights.mean(-2, keepdims=True), weights.shape)
    return best_keys(means, keys)


def random_keys(weights: Array, keys: int, seed: int = 0) -> Array:
    """``keys`` of each row, drawn without looking; of those that have any weight, where so many do:
    what is masked in the dense weights stays so."""
    drawn = np.random.default_rng(seed).random(weights.shape, np.float32)
    return best_keys(np.where(weights > 0, 1 + drawn, drawn), keys)


def control(name: str, weights: Array, keys: int) -> Array:
    """The admitted keys of one of ``CONTROLS``: ``[..., n, m]`` bool."""
    make = {"best keys": best_keys, "best columns": best_columns, "random keys": random_keys}
    return make[name](weights, keys)


class Kept(NamedTuple):
    """A pattern against dense attention, one number a head: recall is the mass of the admitted keys
    in the dense weights; error ||out - dense|| / ||dense|| and cosine are of rows of the output,
    greatest is max |out - dense| / max |v|, entropy that of softmax over the admitted keys, in nats."""

    recall: Array
    recall_p5: Array
    error: Array
    error_p95: Array
    cosine: Array
    cosine_p5: Array
    greatest: Array
    entropy: Array
    entropy_p5: Array


def attend(weights: Array, v: Array, admitted: Array) -> tuple[Array, Array]:
    """The output ``[..., n, d]`` of softmax over the admitted keys alone, from dense weights, and
    the dense mass of these keys ``[..., n]``; zero where no key is admitted."""
    kept = weights * admitted
    mass = kept.sum(-1)
    return (kept @ v) / np.where(mass > 0, mass, 1)[..., None], mass


def kept(weights: Array, v: Array, admitted: Array, dense: Array | None = None) -> Kept:
    """Measures of ``[heads, n, n]`` dense weights, ``[heads, n, d]`` values and a mask that
    broadcasts to the weights. Float64 keeps what float32 would round to rows without mass.
    ``dense``: weights @ v, where it is there already."""
    dense = weights @ v if dense is None else dense
    out, mass = attend(weights, v, admitted)
    size, own = np.linalg.norm(dense, axis=-1), np.linalg.norm(out, axis=-1)
    error = np.linalg.norm(out - dense, axis=-1) / size
    cosine = (out * dense).sum(-1) / np.maximum(own * size, 1e-300)
    some = np.where(mass > 0, mass, 1)
    logs = np.log(np.maximum(weights, 1e-300))
    entropy = np.log(some) - np.where(admitted, weights * logs, 0).sum(-1) / some
    return Kept(
        mass.mean(-1), np.quantile(mass, 0.05, axis=-1),
        error.mean(-1), np.quantile(error, 0.95, axis=-1),
        cosine.mean(-1), np.quantile(cosine, 0.05, axis=-1),
        np.abs(out - dense).max((-1, -2)) / np.abs(v).max((-1, -2)),
        entropy.mean(-1), np.quantile(entropy, 0.05, axis=-1),
    )  # fmt: skip


class Shape(NamedTuple):
    """How heads look, one number each: see ``shape``."""

    entropy: Array
    logit_deviation: Array
    first_key: Array
    sinks: Array
    local: Array
    locality: Array


def shape(q: Array, k: Array, window: int = 32, causal: bool = False) -> Shape:
    """Of q, k ``[heads, n, d]``, means over rows: entropy in nats, the logits' standard deviation,
    the mass of key 0, of the first 4, of the keys within ``window``; and the locality exponent g of
    weight ~ distance^-g, fitted to the mean weights of octaves of distance up to n / 2, sinks left
    out. Causal: over the keys up to each query's own."""
    apart = np.subtract.outer(np.arange(q.shape[1]), np.arange(k.shape[1]))
    seen = apart >= 0 if causal else np.ones_like(apart, bool)
    apart = np.abs(apart)
    logits = q.astype(np.float64) @ np.swapaxes(k, 1, 2) / np.sqrt(q.shape[-1])
    weights = np.where(
        seen, np.exp(logits - logits.max(-1, keepdims=True, where=seen, initial=-1e300)), 0
    )
    weights /= weights.sum(-1, keepdims=True)
    inner, admitted = apart[:, SINKS:], seen[:, SINKS:]
    octaves = 2 ** np.arange(int(np.log2(max(q.shape[1] // 2, 2))))
    means = np.array([
        weights[:, :, SINKS:][:, (inner >= low) & (inner < 2 * low) & admitted].mean(1)
        for low in octaves
    ])  # fmt: skip
    middle = [np.log(np.arange(low, 2 * low)).mean() for low in octaves]
    fit = np.polyfit(middle, np.log(np.maximum(means, 1e-300)), 1)
    return Shape(
        -(weights * np.log(np.maximum(weights, 1e-300))).sum(2).mean(1),
        logits.std(2, where=np.broadcast_to(seen, logits.shape)).mean(1),
        weights[:, :, 0].mean(1),
        weights[:, :, :SINKS].sum(2).mean(1),
        (weights * (apart <= window)).sum(2).mean(1),
        -fit[0],
    )


def frontier(cost: Array, loss: Array) -> Array:
    """Which points no other beats in one and equals or beats in the other: bool."""
    cost, loss = np.asarray(cost, float), np.asarray(loss, float)
    no_worse = (cost[:, None] <= cost) & (loss[:, None] <= loss)  # [other, point]
    better = (cost[:, None] < cost) | (loss[:, None] < loss)
    return np.logical_not((no_worse & better).any(0))
