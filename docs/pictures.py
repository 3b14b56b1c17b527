# SPDX-License-Identifier: Apache-2.0
"""`python docs/pictures.py [NAME]...` draws the pictures of docs/attention.md into docs/pictures/.

Weights in them are computed by the kernels themselves. A matrix has a row a query, a column a key.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "analysis"))

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import attnbench
from attnbench import _core
from attnbench.figures import style

FOLDER = ROOT / "docs" / "pictures"
WIDTH_IN = 7.0
BLUES, SIGNED = "Blues", "PuOr"
RANKS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")

Panel = tuple[np.ndarray, str, str]  # a matrix, its title, what stands before it


def bare(at: Axes, title: str = "", ylabel: str = "", xlabel: str = "") -> None:
    """A matrix needs neither ticks nor a frame."""
    at.set(xticks=[], yticks=[], xlabel=xlabel, ylabel=ylabel)
    at.set_title(title, loc="center")
    at.grid(visible=False)
    at.spines[:].set_visible(False)


def edges(at: Axes, rows: int, columns: int, width: float = 0.4) -> None:
    for i in range(rows + 1):
        at.axhline(i - 0.5, color="white", linewidth=width)
    for j in range(columns + 1):
        at.axvline(j - 0.5, color="white", linewidth=width)


def shades(at: Axes, values: np.ndarray, signed: bool = False) -> None:
    low = -np.abs(values).max() if signed else 0
    at.imshow(values, cmap=SIGNED if signed else BLUES, vmin=low, vmax=np.abs(values).max())
    edges(at, *values.shape)


def row(panels: Sequence[Panel], height_in: float = 1.6) -> Figure:
    """Matrices in a row at one scale, with the signs between them."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    widths = [values.shape[1] + 0.0 for values, _, _ in panels]
    for at, (values, title, sign) in zip(
        figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0], panels
    ):
        shades(at, values, signed=bool((values < 0).any()))
        bare(at, title)
        at.text(-0.6, (len(values) - 1) / 2, sign, ha="right", va="center", fontsize=9)
    return figure


def tensors(n: int, d: int, seed: int = 1) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal((n, d), dtype=np.float32) for _ in range(3)]


def dot_product() -> Figure:
    """The three steps of scaled dot-product attention, eight tokens."""
    q, k, v = tensors(8, 4)
    weights = attnbench.attention_weights(1.5 * q, k)
    return row([
        (q, "Q", ""), (k.T, "Kᵀ", "×"), (1.5 * q @ k.T / 2, "scores QKᵀ/√d", "="),
        (weights, "weights, rows sum to 1", "softmax"), (v, "V", "×"), (weights @ v, "O", "="),
    ])  # fmt: skip


def encoder_decoder() -> Figure:
    """Five decoder steps over six source words, whose order the decoder turns round. The networks
    are set by hand: `general` undoes a rotation; `additive` has two units a feature, whose tanh
    rise before and after s = h, so that their difference peaks there."""
    random = np.random.default_rng(3)
    source = random.standard_normal((6, 9), dtype=np.float32)
    states = source[[0, 4, 5, 2, 1]] + 0.3 * random.standard_normal((5, 9), dtype=np.float32)
    states[:, -1], source[:, -1] = 1, 0  # a bias for the units
    turn = np.linalg.qr(random.standard_normal((9, 9)))[0].astype(np.float32)
    once = np.eye(9, 8, dtype=np.float32)
    w, u = np.hstack([once, once]), np.hstack([-once, -once])
    w[-1] = np.repeat([0.7, -0.7], 8)
    v = np.repeat(np.float32([1.0, -1.0]), 8)
    drawn = {
        "dot: s·h": attnbench.luong_attention(states, source)[1],
        "general: sᵀWh": attnbench.luong_attention(states @ turn.T, source, "general", w=turn)[1],
        "additive: vᵀtanh(Ws + Uh)": attnbench.bahdanau_attention(states, source, w, u, v)[1],
    }
    figure = Figure(figsize=(WIDTH_IN, 2.1), layout="constrained")
    for at, (title, weights) in zip(figure.subplots(1, len(drawn)), drawn.items()):
        at.imshow(weights, cmap=BLUES, vmin=0, vmax=1)
        edges(at, *weights.shape)
        bare(at, title, "decoder steps", "source words")
    return figure


def admitted(n: int, **mask: object) -> np.ndarray:
    return np.asarray(_core.mask(n, n, **mask)).astype(int)


def blocks(at: Axes, seen: np.ndarray, rows: int, columns: int, numbered: bool = False) -> None:
    """Pairs that are admitted, and around them the blocks that a kernel visits, in their order."""
    n, m = seen.shape
    at.imshow(seen, cmap=ListedColormap(["#f1f2f4", "#9cc4e4"]), vmin=0, vmax=1)
    for top in range(0, n, rows):
        order = 0
        for left in range(0, m, columns):
            inside = seen[top : top + rows, left : left + columns]
            if inside.any():
                order += 1
                at.add_patch(Rectangle((left - 0.5, top - 0.5), inside.shape[1], inside.shape[0],
                                       fill=False, edgecolor="#0072B2", linewidth=0.9))  # fmt: skip
                if numbered:
                    middle = (left + (inside.shape[1] - 1) / 2, top + (inside.shape[0] - 1) / 2)
                    at.text(*middle, str(order), ha="center", va="center", fontsize=7)


def dense() -> Figure:
    """Three ways through the same pairs."""
    n, causal = 32, admitted(32, causal=True)
    figure = Figure(figsize=(WIDTH_IN, 2.85), layout="constrained")
    one, two, three = figure.subplots(1, 3)
    blocks(one, np.ones((n, n), int), n, n)
    bare(one, "naive: all scores at once", "queries", "keys")
    blocks(two, causal, 8, n, numbered=True)
    bare(two, "blis_blocked: rows at a time", xlabel="keys")
    blocks(three, causal, 8, 8, numbered=True)
    bare(three, "flash: a block at a time, causal", xlabel="keys")
    return figure


def split() -> Figure:
    """Two heads of one query each, over the keys of both, parted among three threads."""
    heads, keys, threads = 2, 24, 3
    part = (np.arange(heads * keys) * threads // (heads * keys)).reshape(heads, keys)
    figure = Figure(figsize=(WIDTH_IN, 0.95), layout="constrained")
    at = figure.subplots()
    at.imshow(part, cmap=ListedColormap(RANKS[:threads]), vmin=0, vmax=threads - 1, aspect="auto")
    edges(at, heads, keys, 1.0)
    bare(at, "split_keys: a colour a thread", "heads", "keys")
    return figure


def patterns() -> Figure:
    """What the sparse patterns admit, causal."""
    sparse = {"stride": 8, "causal": True}
    drawn = {
        "local": admitted(32, pattern="local", window=4, causal=True),
        "local and 2 sinks": admitted(32, pattern="local", window=4, causal=True, sinks=2),
        "strided": admitted(32, pattern="strided", window=4, **sparse),
        "columns": admitted(32, pattern="columns", window=4, **sparse),
        "fixed": admitted(32, pattern="fixed", columns=1, **sparse),
    }
    figure = Figure(figsize=(WIDTH_IN, 1.7), layout="constrained")
    for at, (title, seen) in zip(figure.subplots(1, len(drawn)), drawn.items()):
        blocks(at, seen, 32, 32)
        bare(at, title)
    return figure


def choice(n: int = 128, block: int = 16) -> np.ndarray:
    """The weights of top_blocks on inputs in which some keys matter: with V = 1, O is they."""
    random = np.random.default_rng(5)
    k = random.standard_normal((n, 32), dtype=np.float32)
    q = random.standard_normal((n, 32), dtype=np.float32)
    places = np.arange(n) // block
    topic = random.standard_normal((4, 32), dtype=np.float32)
    q += topic[places % 4]
    k += topic[places % 3]
    return attnbench.attention(q, k, np.eye(n, dtype=np.float32), kernel="top_blocks",
                               causal=True, options={"block": block, "blocks": 4})  # fmt: skip


def tiles() -> Figure:
    """Lists of tiles made from numbers, and one that is chosen by content."""
    n = 32
    bird = attnbench.tiles(n, n, tile=4, band=1, global_tiles=1, random_tiles=1)
    dilated = attnbench.tiles(n, n, tile=1, band=4, dilation=2)
    figure = Figure(figsize=(WIDTH_IN, 2.85), layout="constrained")
    one, two, three = figure.subplots(1, 3)
    blocks(one, admitted(n, tile=4, tiles=bird), 4, 4)
    bare(one, "band, global, random tiles", "queries", "keys")
    blocks(two, admitted(n, tile=1, tiles=dilated), n, n)
    bare(two, "a dilated window", xlabel="keys")
    blocks(three, (choice() > 0).astype(int), 16, 16)
    bare(three, "top_blocks: chosen by content", xlabel="keys")
    return figure


def colours(at: Axes, owner: np.ndarray, text: np.ndarray | None = None) -> None:
    """Cells by rank; -1 is empty."""
    at.imshow(owner, cmap=ListedColormap(["#f1f2f4", *RANKS]), vmin=-1, vmax=len(RANKS) - 1)
    edges(at, *owner.shape, 1.0)
    for place, said in np.ndenumerate(text) if text is not None else ():
        at.text(place[1], place[0], said, ha="center", va="center", fontsize=7, color="white")


def ranks() -> Figure:
    """Who computes what, and when: ring by steps, ulysses by heads."""
    count = len(RANKS)
    rows = np.arange(count)[:, None].repeat(count, 1)
    step = ((rows - rows.T) % count + 1).astype(str)
    figure = Figure(figsize=(WIDTH_IN, 2.2), layout="constrained")
    ring, zigzag, before, after = figure.subplots(1, 4, width_ratios=(4, 4, 3, 3))
    colours(ring, rows, step)
    bare(ring, "ring: steps of a rank", "queries, by rank", "keys, by the rank they began on")
    part = np.array([*range(count), *reversed(range(count))])
    half = np.tril(np.ones((2 * count, 2 * count), int))
    colours(zigzag, np.where(half, part[:, None], -1))
    bare(zigzag, "ring, causal: zigzag", xlabel="keys, in 2R parts")
    colours(before, np.arange(count)[:, None].repeat(count, 1))
    bare(before, "ulysses: rows ...", "rows", "heads")
    colours(after, np.arange(count)[None, :].repeat(count, 0))
    bare(after, "... become heads", xlabel="heads")
    return figure


def layers() -> Figure:
    """How many steps lie between an input and an output that hears of it."""
    n = 12
    i, j = np.indices((n, n))
    past = {
        "self_attention": np.where(j <= i, 1, 0),
        "rnn, lstm, gru": np.where(j <= i, i - j + 1, 0),
        "convolution, width 3": np.where(j <= i, np.maximum(-(-(i - j) // 2), 1), 0),
    }
    figure = Figure(figsize=(WIDTH_IN, 2.3), layout="constrained")
    for at, (title, steps) in zip(figure.subplots(1, len(past)), past.items()):
        at.imshow(np.where(steps, steps, np.nan), cmap=BLUES, vmin=0, vmax=n)
        edges(at, n, n)
        for (row_, column), number in np.ndenumerate(steps):
            if number:
                at.text(column, row_, str(number), ha="center", va="center", fontsize=5,
                        color="white" if number > n / 2 else style.INK)  # fmt: skip
        bare(at, title, "output", "input")
    return figure


PICTURES: tuple[Callable[[], Figure], ...] = (
    dot_product, encoder_decoder, dense, split, patterns, tiles, ranks, layers,
)  # fmt: skip


def main(names: Sequence[str], folder: Path = FOLDER) -> None:
    folder.mkdir(exist_ok=True)
    for picture in PICTURES:
        if not names or picture.__name__ in names:
            with style.rc(WIDTH_IN):
                path = folder / f"{picture.__name__}.png"
                picture().savefig(path, dpi=150, facecolor="white")


if __name__ == "__main__":
    main(sys.argv[1:])
