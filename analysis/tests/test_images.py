# SPDX-License-Identifier: Apache-2.0
"""Figures look as they did when somebody last looked at them.

The references in data/images are drawn from a made-up run, small, and compared in blocks, so that
another version's hinting passes and a lost curve, a moved legend or another colour does not.
ATTNBENCH_REDRAW=1 writes them anew: look at them before they are committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import image, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from synthetic_runs import sweep, switched, with_gaps, write_run

from attnbench import figures, graph, heatmap, records
from attnbench.figures import style

FOLDER = Path(__file__).parent / "data" / "images"
DPI, BLOCK = 60, 6
WORST, MEAN = 0.3, 0.004  # of a block's colour, 0 to 1; an equal drawing on this machine has 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    lines = with_gaps(sweep(head_dims=(32, 64)))
    lines += [
        r | {"case": f"{r['case']}-2", "threads": 2, "median_ns": 0.55 * r["median_ns"],
             "samples_ns": [0.55 * s for s in r["samples_ns"]]}
        for r in sweep(head_dims=(32, 64))
    ]  # fmt: skip
    return records.load(write_run(tmp_path_factory.mktemp("runs") / "quick", lines))


@pytest.fixture(scope="module")
def widths(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """A run that was swept along a second size too."""
    lines = sweep((128, 256, 512, 1024), (16, 32, 64, 128), rounds=2, kernels=("naive", "flash"))
    return records.load(write_run(tmp_path_factory.mktemp("runs") / "width", lines))


@pytest.fixture(scope="module")
def beside_peers(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """A run in which one kernel is hosted in Python, at two sizes."""
    lines = sweep((256, 512), (64,), rounds=3, kernels=("naive", "flash", "blis_blocked"))
    hosted = [r | {"host": "python"} if r["kernel"] == "blis_blocked" else r for r in lines]
    return records.load(write_run(tmp_path_factory.mktemp("runs") / "peers", hosted))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """A run of one kernel with options set otherwise."""
    return records.load(write_run(tmp_path_factory.mktemp("runs") / "options", switched()))


def pixels(figure: Figure) -> np.ndarray:
    """[rows, columns, 3], 0 to 1."""
    style.settle(figure)
    figure.set_facecolor("white")
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    with rc_context({"text.hinting": "none"}):  # letters as wide as in the layout
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def blocks(picture: np.ndarray) -> np.ndarray:
    rows, columns = (size // BLOCK for size in picture.shape[:2])
    cut = picture[: rows * BLOCK, : columns * BLOCK]
    return cut.reshape(rows, BLOCK, columns, BLOCK, 3).mean((1, 3))


def difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The largest and the mean difference of blocks."""
    assert one.shape == other.shape, f"{one.shape} against {other.shape}"
    gap = np.abs(blocks(one) - blocks(other))
    return float(gap.max()), float(gap.mean())


@pytest.mark.parametrize("name", [figure.name for figure in figures.FIGURES])
def test_a_figure_looks_as_its_reference(
    run: pd.DataFrame, widths: pd.DataFrame, beside_peers: pd.DataFrame, options: pd.DataFrame,
    name: str,
) -> None:  # fmt: skip
    others = {"time_by_width": widths, "peers": beside_peers, "options": options}
    run = others.get(name, run)
    summary = records.summarise(run)
    drawing = figures.draw(name, run, summary)
    assert drawing is not None
    compare(name, drawing.figure)


SENTENCE = [
    "[CLS]",
    "the",
    "cat",
    "sat",
    "on",
    "the",
    "mat",
    "because",
    "it",
    "was",
    "warm",
    "[SEP]",
]
TURNED = ["die", "Katze", "saß", "warm", "auf", "der", "Matte"]


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits)
    return weights / weights.sum(-1, keepdims=True)


def of_weights(name: str) -> Figure:
    """Figures of weights made up: some look far, some near."""
    random, n = np.random.default_rng(7), len(SENTENCE)
    near = -np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    heads = softmax(
        2 * random.standard_normal((12, n, n)) + np.linspace(0, 2, 12)[:, None, None] * near
    )
    if name == "heads":
        return heatmap.plot_heads(heads)
    if name == "alignment":  # another language's words down, in another order
        logits = 1.5 * random.standard_normal((len(TURNED), n))
        logits[range(len(TURNED)), [1, 2, 3, 10, 4, 5, 6]] += 4
        return heatmap.plot_attention(softmax(logits), TURNED, SENTENCE)
    if name == "graph":
        return graph.plot_graph(graph.attention_graph(heads[3], SENTENCE, threshold=0.15))
    if name == "layers":
        return graph.plot_layers(heads[[1, 6, 11]], SENTENCE, threshold=0.2)
    return heatmap.plot_attention(heads[3], SENTENCE, title="head 3")


@pytest.mark.parametrize("name", ["attention", "alignment", "heads", "graph", "layers"])
def test_a_figure_of_weights_looks_as_its_reference(name: str) -> None:
    compare(name, of_weights(name))


def compare(name: str, figure: Figure) -> None:
    drawn, path = pixels(figure), FOLDER / f"{name}.png"
    if os.environ.get("ATTNBENCH_REDRAW") == "1":
        FOLDER.mkdir(exist_ok=True)
        image.imsave(path, np.ascontiguousarray(drawn))
    worst, mean = difference(drawn, image.imread(path)[..., :3])
    assert worst <= WORST and mean <= MEAN, f"{name}: {worst:.3f} at worst, {mean:.4f} in the mean"


def test_a_lost_curve_is_seen(run: pd.DataFrame) -> None:
    without = run[run["kernel"] != "flash"]
    drawing = figures.draw("time", without, records.summarise(without))
    assert drawing is not None
    reference = image.imread(FOLDER / "time.png")[..., :3]
    drawn = pixels(drawing.figure)
    rows = min(len(drawn), len(reference))  # its legend is shorter by an entry
    worst, mean = difference(drawn[:rows], reference[:rows])
    assert worst > WORST or mean > MEAN
