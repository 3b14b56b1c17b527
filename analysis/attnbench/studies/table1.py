# SPDX-License-Identifier: Apache-2.0
"""Table 1 of "Attention Is All You Need", measured: growth, crossovers, threads, path lengths.

Takes the newest run of experiments/table1.toml under results/table1 (else sweeps it, five minutes),
and a short sweep with one and two threads. What the table expects is not typed in: exponents and
crossovers of the operation counts are taken from the records by the same fits as those of the time.
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import attnbench
from attnbench import _core, fit, records
from attnbench.figures import style
from attnbench.studies import ROOT, Claim, Finding, Picture, Study

EXPERIMENT = ROOT / "experiments" / "table1.toml"
RUNS = Path("results/table1")
CLOSE = {"keys": 0.25, "d_model": 0.35}  # between the exponents of time and of the count
FACTOR = 2.0  # between the measured and the counted crossover
SCALES, STEPS = 1.4, 1.25  # speed-ups on two threads: at least where parallel, at most in steps
LENGTH = 66  # tokens of the path search
# The table's layers: the mask through which one of them lets a token look, and the layers needed.
PATHS: dict[str, tuple[dict[str, Any], int]] = {
    "self-attention": ({}, 1),
    "restricted, ±8": ({"pattern": "local", "window": 8}, math.ceil((LENGTH - 1) / 8)),
    "strided, 8": ({"pattern": "strided", "window": 8, "stride": 8}, 2),
    "convolution, 3 wide": ({"pattern": "local", "window": 1}, LENGTH - 1),
}
MARKS = {
    "self-attention": style.Mark("#0072B2", "o", "-"),
    "restricted": style.Mark("#009E73", "^", "-"),
    "rnn": style.Mark("#E69F00", "D", (0, (4, 1.5))),
    "gru": style.Mark("#D55E00", "s", (0, (4, 1.5))),
    "lstm": style.Mark("#882255", "v", (0, (4, 1.5))),
    "convolution": style.Mark("#6b7079", "P", (0, (1, 1.2))),
}
RECURRENT = ("rnn", "lstm", "gru")

Array = np.ndarray


def sweep(folder: Path, *arguments: str) -> Path:
    """Runs the experiment into a folder, or goes on with what is there. Raises ValueError."""
    given = ["--resume", str(folder)] if (folder / "run.json").exists() else [
        str(EXPERIMENT), "-o", str(folder), *arguments]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "attnbench", "sweep", *given])
    if done.returncode != 0:
        raise ValueError(f"the sweep of {EXPERIMENT.name} failed with status {done.returncode}")
    return folder


def newest() -> Path | None:
    """The last run of the experiment that has records."""
    found = sorted(RUNS.glob("*/*/records.jsonl"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else None


def layer_name(row: pd.Series) -> str:
    """The table's name of a layer."""
    if row["kernel"] == "self_attention":
        return "restricted" if row.get("pattern") == "local" else "self-attention"
    return row["kernel"]


def read(run: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Records and one row a case with its ``layer``; cases that failed are left out."""
    frame = records.load(run)
    summary = records.summarise(frame)
    summary["layer"] = summary.apply(layer_name, axis=1)
    return frame, summary[summary["status"] == "ok"]


def exponents(summary: pd.DataFrame, over: str, least: int) -> dict[str, dict[str, float]]:
    """By layer and fixed size: the exponent of the time and of the count over the same sizes."""
    fixed = "d_model" if over == "keys" else "keys"
    found = {}
    for (layer, size), group in summary.groupby(["layer", fixed]):
        group = group.drop_duplicates(over).sort_values(over)
        if len(group) < least:
            continue
        sizes = group[over].to_numpy(float)
        found[f"{layer}, {'d' if fixed == 'd_model' else 'n'} = {int(size)}"] = {
            "time": fit.fit_power(sizes, group["median_ns"])[2],
            "count": fit.fit_power(sizes, group["useful_flops"])[2],
        }
    return found


def crossing(sizes: Array, first: Array, second: Array) -> float:
    """The size at which the first curve overtakes the second, by interpolating the logarithm of
    their ratio; 0 where it is above at every size, infinite where at none."""
    above = np.log(first / second)
    if (above > 0).all():
        return 0.0
    if (above <= 0).all():
        return math.inf
    i = int(np.flatnonzero(above <= 0)[-1])  # the last size at which the first is cheaper
    if i == len(sizes) - 1:
        return math.inf
    share = -above[i] / (above[i + 1] - above[i])
    return float(sizes[i] * (sizes[i + 1] / sizes[i]) ** share)


def crossovers(summary: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By recurrent layer and width: the length at which self-attention gets dearer, measured and by
    the count."""
    found = {}
    for width, group in summary.groupby("d_model"):
        table = group.drop_duplicates(["layer", "keys"]).pivot(index="keys", columns="layer")
        for other in ("rnn", "lstm"):
            columns = [
                (c, n) for c in ("median_ns", "useful_flops") for n in ("self-attention", other)
            ]
            if not set(columns) <= set(table.columns):
                continue
            both = table[columns].dropna().astype(float)
            if len(both) < 4:
                continue
            sizes = both.index.to_numpy(float)
            found[f"{other}, d = {int(width)}"] = {
                name: crossing(
                    sizes,
                    both[column, "self-attention"].to_numpy(),
                    both[column, other].to_numpy(),
                )
                for name, column in (("time", "median_ns"), ("count", "useful_flops"))
            }
    return found


def speedups(summary: pd.DataFrame) -> dict[str, float]:
    """Time on one thread over time on two, by layer."""
    times = summary.pivot_table(index="layer", columns="threads", values="median_ns")
    return {str(k): float(v) for k, v in (times[1] / times[2]).dropna().items()}


def rates(summary: pd.DataFrame) -> dict[str, float]:
    """By layer: useful operations a nanosecond, the median over its sizes."""
    rate = summary["useful_flops"] / summary["median_ns"]
    return {str(k): float(v) for k, v in rate.groupby(summary["layer"]).median().items()}


def path_by_search(n: int, **mask: Any) -> int:
    """Layers after which token 0 reaches output n - 1: breadth-first on the mask's graph."""
    admitted = _core.mask(n, n, **mask)
    reached = np.arange(n) == 0
    for layers in range(1, n + 1):
        reached = (admitted & reached).any(1)
        if reached[n - 1]:
            return layers
    raise ValueError("mask: token 0 never reaches the last output")


def path_by_perturbation(n: int, **mask: Any) -> int:
    """The same through stacked layers of our kernels: a NaN in token 0 spreads to exactly what
    depends on it, however little that may be."""
    random = np.random.default_rng(0)
    x = random.standard_normal((n, 16)).astype(np.float32)
    x[0] = np.nan
    for layers in range(1, n + 1):
        wq, wk, wv = (random.standard_normal((3, 16, 16)) / 4).astype(np.float32)
        x = attnbench.attention(x @ wq, x @ wk, x @ wv, kernel="auto", **mask)
        if np.isnan(x[-1]).any():
            return layers
    raise ValueError("mask: token 0 never reaches the last output")


def _size(n: float) -> str:
    if n == 0:
        return "at every length"
    return "at no length measured" if math.isinf(n) else f"{n:.0f}"


def _close(pair: dict[str, float]) -> bool:
    a, b = pair["time"], pair["count"]
    if 0 in (a, b) or math.inf in (a, b):
        return a == b
    return 1 / FACTOR <= a / b <= FACTOR


def run(folder: Path, quick: bool) -> Finding:
    small = ("-a", "keys=64:1024:*2", "-a", "d_model=64", "--budget", "30")
    source = sweep(folder / "run", *small) if quick else newest() or sweep(folder / "run")
    pair = ("-a", "keys=1024", "-a", "d_model=256", "-a", "threads=1,2", "--budget", "30")
    _, summary = read(source)
    _, threads = read(sweep(folder / "threads", *pair))
    least = 5 if quick else 8
    single = summary[summary["threads"] == summary["threads"].min()]
    grown = {over: exponents(single, over, least) for over in CLOSE}
    crossed = crossovers(single)
    faster = speedups(threads)
    rate = rates(single)
    steps = threads.groupby("layer")["sequential_operations"].max().to_dict()
    paths = {
        name: (path_by_search(LENGTH, **mask), path_by_perturbation(LENGTH, **mask), expected)
        for name, (mask, expected) in PATHS.items()
    }
    claims = []
    for over, size in (("keys", "n"), ("d_model", "d")):
        if not grown[over]:
            continue
        apart = {name: abs(e["time"] - e["count"]) for name, e in grown[over].items()}
        claims.append(
            Claim(
                f"time grows with {size} as the operation count does (exponents within"
                f" {CLOSE[over]:g})",
                "; ".join(
                    f"{name}: {e['time']:.2f} (count {e['count']:.2f})"
                    for name, e in grown[over].items()
                ),
                max(apart.values()) <= CLOSE[over],
            )
        )
    claims.append(
        Claim(
            f"self-attention gets dearer than a recurrence at the length that the counts say (within"
            f" {FACTOR:g} times)",
            "; ".join(
                f"{name}: {_size(c['time'])} (count: {_size(c['count'])})"
                for name, c in crossed.items()
            ),
            bool(crossed) and all(_close(c) for c in crossed.values()),
        )
    )
    parallel = {k: v for k, v in faster.items() if k not in RECURRENT}
    serial = {k: v for k, v in faster.items() if k in RECURRENT}
    claims += [
        Claim(
            "attention and convolution take 1 sequential step, a recurrence n",
            ", ".join(f"{name} {int(count)}" for name, count in steps.items())
            + f" at n = {int(threads['keys'].max())}",
            all(
                count == (threads["keys"].max() if name in RECURRENT else 1)
                for name, count in steps.items()
            ),
        ),
        Claim(
            f"so two threads speed the first up (by {SCALES:g} or more) and a recurrence hardly"
            f" (under {STEPS:g})",
            ", ".join(f"{name} {value:.2f}" for name, value in faster.items()),
            bool(parallel and serial)
            and min(parallel.values()) >= SCALES
            and max(serial.values()) < STEPS,
        ),
        Claim(
            f"the longest path between two of {LENGTH} tokens takes as many layers as the table says,"
            " by search on the mask and through stacked layers",
            "; ".join(f"{name}: {a} and {b} (table: {c})" for name, (a, b, c) in paths.items()),
            all(a == b == c for a, b, c in paths.values()),
        ),
    ]
    text = [
        "Crossovers of self-attention (with its projections) and recurrences, by length: "
        + "; ".join(
            f"{name}: {_size(c['time'])}, by the count {_size(c['count'])}"
            for name, c in crossed.items()
        )
        + ". A second thread speeds up "
        + ", ".join(f"{name} {value:.2f} times" for name, value in faster.items())
        + ".",
        "Where the two part: a count prices all operations alike, and these layers do not do them"
        " at one rate: "
        + ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in rate.items())
        + " (medians over the sizes). A step of a recurrence is a product of a matrix with one"
        " vector, which reads a weight for each two operations; attention's are products of"
        " matrices. And steps in sequence limit what runs beside each other across positions only:"
        " the products into the layer are one matrix product, and the units of a step are shared"
        " out among the threads.",
    ]
    numbers = {
        "run": str(source), "exponents": grown, "crossovers": crossed, "speedup_two_threads": faster,
        "gflops": rate,
        "sequential_operations": steps, "paths_search_perturbation_table": paths,
    }  # fmt: skip
    return Finding(text, claims, numbers, [_picture(single, crossed, faster)])


def _picture(
    summary: pd.DataFrame, crossed: dict[str, dict[str, float]], faster: dict[str, float]
) -> Picture:
    widths = summary.groupby("d_model")["keys"].nunique()
    widest = float(widths[widths >= 5].index.max())
    lengths = summary.groupby("keys")["d_model"].nunique()
    length = float(lengths.idxmax())
    panels = (
        ("keys", summary[summary["d_model"] == widest], f"d = {widest:g}", "length n"),
        ("d_model", summary[summary["keys"] == length], f"n = {length:g}", "width d"),
    )
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, 1, 3, 2.5, width_ratios=[1.3, 1.3, 1])
        for at, (over, rows, title, label) in zip(axes[0], panels):
            for layer, mark in MARKS.items():
                own = rows[rows["layer"] == layer].drop_duplicates(over).sort_values(over)
                at.plot(own[over], own["median_ns"], color=mark.color, marker=mark.marker,
                        ls=mark.dash)  # fmt: skip
            at.set_yscale("log")
            style.log_sizes(at, rows[over], label)
            style.unit_ticks(at, style.short_time)
            at.set_title(title)
        axes[0, 0].set_ylabel("time of a layer")
        for name, where in crossed.items():
            if f"d = {widest:g}" in name and 0 < where["time"] < math.inf:
                axes[0, 0].axvline(where["time"], color=MARKS[name.split(",")[0]].color, lw=0.8,
                                   ls=":")  # fmt: skip
        names = [name for name in MARKS if name in faster]
        bars = axes[0, 2].barh(names, [faster[n] for n in names], height=0.6,
                               color=[MARKS[n].color for n in names])  # fmt: skip
        axes[0, 2].bar_label(bars, fmt="%.2f", padding=2, fontsize="small")
        axes[0, 2].axvline(1, color=style.FAINT, lw=0.8)
        axes[0, 2].set_xlim(0, 2.3)
        axes[0, 2].invert_yaxis()
        axes[0, 2].grid(visible=False, axis="y")
        axes[0, 2].set_title("speed-up on two threads")
        drawn = [n for n in MARKS if n in set(summary["layer"])]
        style.finish(figure, summary, [style.handle(n, MARKS[n]) for n in drawn])
    return Picture(
        "table1", figure, "Time of one layer over length and width, and what a second thread gives."
        " Dotted: where self-attention gets dearer than the recurrence of that colour.",
    )  # fmt: skip


STUDY = Study(
    "table1",
    "Do layers cost what table 1 of “Attention Is All You Need” counts?",
    "Per layer self-attention takes n²d operations, a recurrence nd² in n sequential steps,"
    " restricted self-attention rnd, a convolution knd²; self-attention is the cheaper one while n is"
    " small against d (n < 2d against an LSTM, with projections), and paths between tokens take 1, n,"
    " n/r and n/k layers (Vaswani et al. 2017, table 1).",
    run,
)
