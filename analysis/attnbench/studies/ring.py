# SPDX-License-Identifier: Apache-2.0
"""Ring: what one sequence over several ranks costs, and what it would cost on many more.

experiments/ring.toml is measured here, on as many ranks as there are cores, and so are messages
between two ranks. A model with a handful of constants is fitted to the parts of these runs and
tested on parts that it was not fitted to; then it says what more ranks and longer sequences take.
Attention a rank: a_pair a pair of query and key and a_row a query and a run of keys that it meets
(what a run's ends waste). Merging: a constant a merged partial result, one a row, one a byte packed.
A message: latency + bytes / bandwidth. With overlap a step takes its attention or its message,
whichever is longer; without, their sum.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from attnbench import cli, records
from attnbench.figures import style
from attnbench.format import bytes_text, last_words, time_text
from attnbench.studies import Claim, Finding, Picture, Study
from attnbench.studies._ring_model import (
    ASSUMED,
    CORES,
    LENGTHS,
    NETWORK,
    RANKS,
    Model,
    Shape,
    memory,
)

EXPERIMENT = "experiments/ring.toml"
PARTS = ("compute", "progress", "wait", "merge")
COLORS = dict(zip(PARTS, ("#0072B2", "#56B4E9", "#D55E00", "#009E73"), strict=True))
CLOSE, NEAR = 0.15, 0.30  # relative errors of the model that are good, and good enough for parts
BALANCED = 1.05  # the busiest rank's attention over the mean


def link(folder: Path) -> dict[str, Any]:
    """Messages between two ranks of this machine: latency (s) and bandwidth (bytes/s), fitted to
    their times with relative weights."""
    file = folder / "link.json"
    if not file.exists():
        told = subprocess.run(
            [cli.harness(), "peak", "--ranks", "2"], capture_output=True, text=True
        )
        if told.returncode:
            raise ValueError(last_words(told.stderr))
        file.write_text(told.stdout)
    table = json.loads(file.read_text())
    size = np.array([m["bytes"] for m in table["messages"]], float)
    seconds = np.array([m["ns"] for m in table["messages"]]) * 1e-9
    latency, per_byte = nnls(np.stack([1 / seconds, size / seconds], 1), np.ones(len(size)))[0]
    return table | {"latency_s": latency, "bytes_per_s": 1 / per_byte}


def measure(folder: Path, quick: bool) -> pd.DataFrame:
    """The runs of the experiment, a row a case: medians over rounds; times in seconds."""
    run = folder / "run"
    arguments = (
        ["--resume", str(run)] if (run / "run.json").exists() else [EXPERIMENT, "-o", str(run)]
    )
    if quick and arguments[0] != "--resume":
        arguments += ["-a", "keys=256,512,1024", "--budget", "60", "--rounds", "2"]
    done = subprocess.run([cli.harness(), "sweep", *arguments])
    if done.returncode:
        raise ValueError(f"the sweep of {EXPERIMENT} ended with status {done.returncode}")
    frame = records.load(run)
    if (refused := frame[frame["status"] != "ok"]).size:
        raise ValueError(f"{EXPERIMENT}: {refused.iloc[0]['kernel']}: {refused.iloc[0]['reason']}")
    return table_of(frame)


def table_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a case, of records: what is wanted of them, medians over the rounds."""
    rows = []
    for _, group in records.round_medians(frame).groupby("case"):
        first = group.iloc[0]
        parts = {
            p: np.median(np.stack(group[f"parts_{p}_ns"].map(np.asarray)), axis=0) * 1e-9
            for p in PARTS
        }
        rows.append({
            "kernel": first["kernel"], "n": int(first["keys"]), "ranks": int(first["ranks"]),
            "heads": int(first["heads"]), "width": int(first["head_dim"]),
            "causal": bool(first["causal"]), "overlap": first.get("option_overlap", np.nan) != 0,
            "zigzag": first.get("option_zigzag", np.nan) != 0,
            "seconds": group["median_ns"].median() * 1e-9,
            "bytes_sent": first["bytes_sent"],
            "rank_bytes": first["workspace_bytes"] + first["tensor_bytes"] if first["ranks"] > 1
                          else np.nan,
            "peak_bytes": group["peak_rss_bytes"].max(),
            **{p: float(v.mean()) for p, v in parts.items()},
            "balance": float(parts["compute"].max() / parts["compute"].mean()),
        })  # fmt: skip
    return pd.DataFrame(rows).sort_values(["kernel", "causal", "ranks", "n"], ignore_index=True)


def shape(row: Any) -> Shape:
    return Shape(row.n, row.heads, row.width, row.causal)


def expected_bytes(row: Any) -> float:
    """What all ranks together must send in a run, by the algorithms."""
    moved = row.n * row.heads * row.width * 4
    if row.kernel == "ring":  # k and v of each rank visit all others
        return (row.ranks - 1) * 2 * moved
    return (1 - 1 / row.ranks) * 4 * moved  # q, k, v there and out back, but for what stays


def fit(table: pd.DataFrame, latency_s: float, bytes_per_s: float) -> Model:
    """From the ring's own parts: attention from runs on one rank alone, merging from all but the
    longest."""
    ring = table[(table["kernel"] == "ring") & table["overlap"] & table["zigzag"]]

    def solve(rows: pd.DataFrame, features: list[list[float]], seen: str) -> list[float]:
        weights = 1 / rows[seen].to_numpy()
        return list(nnls(np.array(features) * weights[:, None], np.ones(len(rows)))[0])

    alone = ring[ring["ranks"] == 1]
    pair, row = solve(
        alone,
        [[shape(r).pairs(), r.n * r.heads * 1.0] for r in alone.itertuples()],
        "compute",
    )
    shorter = ring[ring["n"] < ring["n"].max()]
    per_rank = [(r, r.n / r.ranks * r.heads) for r in shorter.itertuples()]
    partial, finish, packed = solve(
        shorter,
        [
            [rows * shape(r).partials(r.ranks), rows,
             shape(r).block_bytes(r.ranks) * (r.ranks > 1)]
            for r, rows in per_rank
        ],
        "merge",
    )  # fmt: skip
    return Model(pair, row, partial, finish, packed, latency_s, bytes_per_s)


def errors(table: pd.DataFrame, model: Model) -> dict[str, Any]:
    """Relative errors of the model where it was not fitted: attention on several ranks, merging at
    the longest, the whole run (without overlap, as here messages are copied by the ranks)."""
    ring = table[(table["kernel"] == "ring") & table["zigzag"]]
    several, longest = ring["ranks"] > 1, ring["n"] == ring["n"].max()

    def relative(rows: pd.DataFrame, told: Any, seen: str) -> list[float]:
        return [told(r) / getattr(r, seen) - 1 for r in rows.itertuples()]

    return {
        "compute": relative(ring[several], lambda r: model.compute(shape(r), r.ranks), "compute"),
        "merge": relative(ring[longest], lambda r: model.merge(shape(r), r.ranks), "merge"),
        "total": relative(ring, lambda r: model.total(shape(r), r.ranks, overlap=False), "seconds"),
    }


def overlap_gain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The control against the ring, case by case: how much shorter the run, and how much less was
    waited, as shares of the control's run."""
    ring = table[(table["kernel"] == "ring") & table["zigzag"] & (table["ranks"] > 1)]
    keys = ["causal", "ranks", "n"]
    both = ring[ring["overlap"]].merge(ring[~ring["overlap"]], on=keys, suffixes=("", "_control"))
    return [
        {
            "n": r.n, "ranks": r.ranks, "causal": r.causal,
            "saved": 1 - r.seconds / r.seconds_control,
            "waited_control": r.wait_control / r.seconds_control,
            "waited": r.wait / r.seconds, "progress": r.progress / r.seconds,
        }
        for r in both.itertuples()
    ]  # fmt: skip


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _middle(values: list[float]) -> float:
    return float(np.median(np.abs(values)))


def _spread(values: list[float]) -> str:
    return f"median error {_percent(_middle(values))}, largest {_percent(_worst(values))}"


def _worst(values: list[float]) -> float:
    return float(np.max(np.abs(values)))


def run(folder: Path, quick: bool) -> Finding:
    table = measure(folder, quick)
    here = link(folder)
    model = fit(table, here["latency_s"], here["bytes_per_s"])
    wrong = errors(table, model)
    gains = overlap_gain(table)
    shared = table[table["ranks"] > 1]
    sent = [r.bytes_sent / expected_bytes(r) - 1 for r in shared.itertuples()]
    causal = shared[(shared["kernel"] == "ring") & shared["causal"]]
    longest = causal[causal["n"] == causal["n"].max()]
    zigzag = float(longest[longest["zigzag"]]["balance"].max())
    in_order = float(longest[~longest["zigzag"]]["balance"].max())
    saved = [g["saved"] for g in gains]
    waited, control = (
        float(np.median([g[k] for g in gains])) for k in ("waited", "waited_control")
    )
    halves = _halving(table)
    claims = [
        Claim("every rank sends what the algorithm says, to the byte",
              f"{len(sent)} cases, largest difference {_worst(sent):.1g}", _worst(sent) == 0),
        Claim(f"zigzag balances a causal mask's work (within {BALANCED:g} of the mean)",
              f"the busiest rank attends {zigzag:.2f} times as long as the mean; with rows in order"
              f" {in_order:.2f}", zigzag <= BALANCED < in_order),
        Claim("sending while attending makes runs shorter than the control's",
              f"by {_percent(float(np.median(saved)))}, the median of {len(saved)} lengths and masks"
              f" ({_percent(min(saved))} to {_percent(max(saved))}); waiting is {_percent(waited)} of"
              f" a run instead of {_percent(control)}", float(np.median(saved)) > 0),
        Claim("two ranks hold half as much each",
              f"{halves:.2f} times the rows' memory of one rank at half the length",
              abs(halves - 1) <= 0.05),
        Claim(f"attention on two ranks is predicted from one ({_percent(CLOSE)})",
              _spread(wrong["compute"]),
              _worst(wrong["compute"]) <= CLOSE),
        Claim(f"merging at the longest is predicted from the shorter (half to {_percent(NEAR)})",
              _spread(wrong["merge"]), _middle(wrong["merge"]) <= NEAR),
        Claim(f"so is the whole run (half to {_percent(CLOSE)})",
              _spread(wrong["total"]), _middle(wrong["total"]) <= CLOSE),
    ]  # fmt: skip
    plan = plans(model)
    text = [_measured_text(table, gains, here), _plan_text(plan)]
    numbers = {
        "model": asdict(model), "link": here, "assumed": NETWORK | {"cores": CORES}, "errors": wrong,
        "overlap": gains, "balance": {"zigzag": zigzag, "in_order": in_order},
        "cases": table.to_dict("records"), "plan": plan,
    }  # fmt: skip
    pictures = [_parts_picture(table), _plan_picture(table, model)]
    return Finding(text, claims, numbers, pictures)


def _halving(table: pd.DataFrame) -> float:
    """Bytes a rank of two at the longest length over those at half of it, halved."""
    ring = table[(table["kernel"] == "ring") & table["overlap"] & table["zigzag"]]
    ring = ring[(ring["ranks"] == 2) & ~ring["causal"]].set_index("n")["rank_bytes"]
    return float(ring.iloc[-1] / ring.iloc[-2] / 2)


def plans(model: Model) -> list[dict[str, Any]]:
    """What the model says of long sequences, on the cluster that is assumed."""
    on_cluster = model.on_cluster()
    return [
        {
            "n": n, "ranks": int(r), "seconds": on_cluster.total(s, int(r), overlap=True),
            "control_seconds": on_cluster.total(s, int(r), overlap=False),
            "memory_bytes": memory(s, int(r)),
        }
        for n in LENGTHS
        for s in [Shape(n, 4, 64, causal=True)]
        for r in RANKS
    ]  # fmt: skip


def _measured_text(table: pd.DataFrame, gains: list[dict[str, Any]], here: dict[str, Any]) -> str:
    ring = table[(table["kernel"] == "ring") & table["overlap"] & table["zigzag"]]
    most = ring[ring["n"] == ring["n"].max()]
    told = []
    for causal, group in most.groupby("causal"):
        times = group.set_index("ranks")["seconds"]
        last = group.iloc[-1]
        busy = last[list(PARTS)].sum()
        shares = ", ".join(f"{p} {_percent(last[p] / busy)}" for p in PARTS)
        told.append(
            f"{'causal' if causal else 'full'}: {time_text(1e9 * times[1])} on one rank,"
            f" {time_text(1e9 * times.iloc[-1])} on {times.index[-1]}, {times[1] / times.iloc[-1]:.2f}"
            f" times as fast ({shares})"
        )
    return (
        f"At n = {int(ring['n'].max())} " + "; ".join(told) + ". Two ranks of this machine exchange"
        f" messages in {1e6 * here['latency_s']:.2f} us and at {1e-9 * here['bytes_per_s']:.1f} GB/s"
        " each way: through shared memory, copied by the ranks themselves, so that what overlap"
        " hides is waiting, not copying."
    )


def _plan_text(plan: list[dict[str, Any]]) -> str:
    longest = [p for p in plan if p["n"] == LENGTHS[-1]]
    told = "; ".join(
        f"{p['ranks']} ranks {time_text(1e9 * p['seconds'])} ({time_text(1e9 * p['control_seconds'])}"
        f" without overlap) and {bytes_text(p['memory_bytes'])} each"
        for p in longest
        if p["ranks"] in (1, 32, 1024)
    )
    return (
        f"By the model a layer of 4 causal heads of 64 at n = {LENGTHS[-1]:,} takes, assuming"
        f" {ASSUMED}: {told}."
    )


def _parts_picture(table: pd.DataFrame) -> Picture:
    """Where a rank's time goes, case by case at the longest length."""
    longest = table[(table["n"] == table["n"].max()) & (table["ranks"] > 1)]
    names = []
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, panel_in=2.3)
        at = axes[0, 0]
        for place, row in enumerate(longest.itertuples()):
            left = 0.0
            for part in PARTS:
                width = 1e3 * getattr(row, part)
                at.barh(place, width, left=left, color=COLORS[part], height=0.7)
                left += width
            idle = 1e3 * row.seconds - left  # it has ended; others have not
            if idle > 0:  # an empty bar would pin the axis' end to its own
                at.barh(place, idle, left=left, color=style.GRID, height=0.7)
            note = "" if row.overlap else ", no overlap"
            note += "" if row.zigzag else ", rows in order"
            names.append(f"{row.kernel}{', causal' if row.causal else ''}{note}")
        at.set_yticks(range(len(names)), names)
        at.invert_yaxis()
        at.grid(visible=False, axis="y")
        at.set_xlabel("milliseconds of a rank, mean of the ranks")
        marks = [
            style.handle(p, style.Mark(c, "s", "none"), markersize=6)
            for p, c in (COLORS | {"others still at work": style.GRID}).items()
        ]
        footer = (
            f"n = {int(table['n'].max())}, {int(longest['ranks'].iloc[0])} ranks of one thread, f32"
        )
        style.finish(figure, footer, marks)
    return Picture("parts", figure,
                   "Where the time of a rank goes: attention, looking after messages in between,"
                   " waiting for them, and merging and packing.")  # fmt: skip


def _plan_picture(table: pd.DataFrame, model: Model) -> Picture:
    """The model from what was measured to what was not, with the measured points on it."""
    ring = table[(table["kernel"] == "ring") & table["overlap"] & table["zigzag"] & table["causal"]]
    cluster = model.on_cluster()
    colors = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#117733")
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, columns=3, panel_in=2.7)
        here, far, room = axes[0]
        for color, (n, group) in zip(colors, ring.groupby("n")):
            s = Shape(int(n), 4, 64, causal=True)
            here.plot(RANKS, [model.total(s, int(r), overlap=False) for r in RANKS], color=color,
                      label=f"{n}")  # fmt: skip
            here.plot(group["ranks"], group["seconds"], "o", color=color)
        for color, n in zip(colors, LENGTHS):
            s = Shape(n, 4, 64, causal=True)
            label = f"10^{round(np.log10(n))}"
            for overlap, dash in ((True, "-"), (False, (0, (2, 2)))):
                far.plot(RANKS, [cluster.total(s, int(r), overlap) for r in RANKS], color=color,
                         ls=dash, label=label if overlap else None)  # fmt: skip
            room.plot(RANKS, [memory(s, int(r)) / 2**30 for r in RANKS], color=color, label=label)
        here.set_title("messages as measured here")
        far.set_title(f"{CORES} cores a rank, 25 GB/s (assumed)")
        room.set_title("memory a rank")
        for at, what in ((here, "seconds"), (far, "seconds"), (room, "GiB")):
            at.set_xscale("log", base=2)
            at.set_yscale("log")
            at.set_xlabel("ranks")
            at.set_ylabel(what)
            at.legend(title="n")
        style.finish(
            figure,
            "ring, causal, 4 heads of 64, f32; points: measured, one thread a rank; lines: model;"
            " dashed: without overlap",
        )
    return Picture("plan", figure,
                   "What the model says up to 1,024 ranks. Left, the lengths that were measured,"
                   " with the measured points; then long sequences on a cluster that is assumed,"
                   " not measured.")  # fmt: skip


STUDY = Study(
    "ring",
    "What does one sequence over several ranks cost, here and on many more?",
    "Each of R ranks holds 1/R of the rows and does 1/R of the work; blocks of keys and values cost"
    " nothing where they arrive while the one before is attended to (Liu, Zaharia and Abbeel 2023),"
    " which a causal mask spoils unless its work is dealt out evenly (Brandon et al. 2023).",
    run,
)
