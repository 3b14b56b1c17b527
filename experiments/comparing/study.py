# SPDX-License-Identifier: Apache-2.0
"""How often `compare` cries wolf, and how often it sees one.

A build is measured against itself in several sessions, interleaved (null.toml). From these rounds
comparisons are drawn: as they are, every FASTER or SLOWER is a false alarm; with the times of one
kernel multiplied, the alarm has to come. Twice: for interleaved comparisons, and for stored runs of
two sessions, whose drift is carried. Shares come with Clopper and Pearson's 95 % intervals.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from attnbench import cli, compare, interleave, records
from attnbench.studies import Claim, Finding, Study

EXPERIMENT = Path(__file__).with_name("null.toml")
SESSIONS, TRIALS = 6, 400
SLOWDOWNS = (1.02, 1.05, 1.10, 1.20)
SLOWED = "flash"
ALARMS, FOUND = 0.05, 0.90  # what is wanted


@dataclass(frozen=True)
class Rounds:
    """log_ns: [case, session, round, side]; ceilings: [case, session, side], log GFLOP/s; slowed:
    likewise, whether the machine was slowed for that case in most rounds."""

    cases: list[str]
    kernels: np.ndarray
    log_ns: np.ndarray
    ceilings: np.ndarray
    slowed: np.ndarray


def collect(folder: Path, sessions: int, rounds: int) -> Rounds:
    """Measures the sessions that the folder lacks; all of them as arrays."""
    own = cli.harness()
    for i in range(sessions):
        output = folder / f"session{i}"
        if not (output / "done").exists():
            interleave.measure(own, own, str(EXPERIMENT), output, ["--rounds", str(rounds)])
            (output / "done").write_text("")
    return read(folder, sessions)


def read(folder: Path, sessions: int) -> Rounds:
    """Rounds in which every case was measured on both sides."""
    medians, slowed = [], {}
    for i in range(sessions):
        for side in ("old", "new"):
            frame = records.load(folder / f"session{i}" / side)
            medians.append(records.round_medians(frame).assign(session=i, side=side))
            slowed[i, side] = compare.mostly_slowed(frame)
    table = pd.concat(medians)
    names = table.drop_duplicates("case").set_index("case")["kernel"]
    values = table.pivot_table(index=["session", "round"], columns=["case", "side"],
                               values="median_ns").dropna()  # fmt: skip
    counts = values.groupby("session").size()
    rounds = int(counts.min())
    cases = list(names.index)
    log_ns = np.stack([
        np.stack([
            np.log(values.loc[i].iloc[:rounds][c][["old", "new"]].to_numpy()) for i in counts.index
        ])
        for c in cases
    ])  # fmt: skip
    peaks = table.pivot_table(index="session", columns=["case", "side"], values="ceiling_gflops",
                              aggfunc="median")  # fmt: skip
    ceilings = np.stack([np.log(peaks[c][["old", "new"]].to_numpy()) for c in cases])
    flagged = [[[c in slowed[i, s] for s in ("old", "new")] for i in counts.index] for c in cases]
    return Rounds(cases, names.to_numpy(), log_ns, ceilings, np.array(flagged))


@dataclass(frozen=True)
class Pair:
    """Two sides to be compared: [cases, rounds] of log times, and what is known between them."""

    old: np.ndarray
    new: np.ndarray
    slowed: np.ndarray  # [cases]
    drift: float = 0.0  # of the ceilings
    paired: bool = True


def verdicts(pair: Pair, slowdown: np.ndarray | float = 0.0) -> np.ndarray:
    """compare's verdict on each case, the new side's log times raised by the slowdown [cases]."""
    old, new = pair.old, pair.new + np.reshape(slowdown, (-1, 1))
    moved = np.array([compare.trimmed(b)[0] - compare.trimmed(a)[0] for a, b in zip(old, new)])
    moved[pair.slowed] = np.nan
    drifts = np.zeros(len(old)) if pair.paired else compare.carried(moved, pair.drift)
    rows = []
    for before, after, carried in zip(old, new, drifts, strict=True):
        centre, low, high, p = compare.log_ratio(before, after, carried, pair.paired)
        rows.append({"ratio": np.exp(centre), "low": np.exp(low), "high": np.exp(high), "p": p})
    table = pd.DataFrame(rows).assign(old_status="ok", new_status="ok", slowed=pair.slowed)
    return compare.judge(table)["verdict"].to_numpy()


def interleaved(data: Rounds, rng: np.random.Generator, rounds: int) -> Pair:
    """`rounds` rounds of any session; which side is called new is a matter of a coin a case."""
    cases, sessions, per_session, _ = data.log_ns.shape
    chosen = rng.choice(sessions * per_session, size=rounds, replace=False)
    pool = data.log_ns.reshape(cases, sessions * per_session, 2)[:, chosen]
    swap = rng.integers(2, size=cases).astype(bool)[:, None]
    first, second = pool[..., 0], pool[..., 1]
    unflagged = np.zeros(cases, dtype=bool)  # paired rounds are judged however slow they were
    return Pair(np.where(swap, second, first), np.where(swap, first, second), unflagged)


def stored(data: Rounds, rng: np.random.Generator, rounds: int) -> Pair:
    """`rounds` rounds of one session against as many of another, with the drift between them."""
    _, sessions, per_session, _ = data.log_ns.shape
    a, b = rng.choice(sessions, size=2, replace=False)
    sides = rng.integers(2, size=2)
    old, new = (
        data.log_ns[:, s, rng.choice(per_session, size=min(rounds, per_session), replace=False), i]
        for s, i in zip((a, b), sides, strict=True)
    )
    drift = abs(np.median(data.ceilings[:, b, sides[1]] - data.ceilings[:, a, sides[0]]))
    slowed = data.slowed[:, a, sides[0]] | data.slowed[:, b, sides[1]]
    return Pair(old, new, slowed, float(drift), paired=False)


def rates(
    data: Rounds, draw: Callable[..., Pair], rounds: int, trials: int, seed: int
) -> dict[str, Any]:
    """Shares of `trials` comparisons: with a false alarm (SLOWER: exit status 1; any), and with the
    slowed kernel found, by slowdown; each (share, low, high)."""
    rng = np.random.default_rng(seed)
    slowed = data.kernels == SLOWED
    alarms = slower = 0
    found = dict.fromkeys(SLOWDOWNS, 0)
    for _ in range(trials):
        pair = draw(data, rng, rounds)
        verdict = verdicts(pair)
        slower += "SLOWER" in verdict
        alarms += bool(np.isin(verdict, ["SLOWER", "FASTER"]).any())
        for factor in SLOWDOWNS:
            injected = verdicts(pair, np.log(factor) * slowed)
            found[factor] += "SLOWER" in injected[slowed]
    return {
        "rounds": rounds, "trials": trials, "cases": len(data.cases),
        "regressions": share(slower, trials), "alarms": share(alarms, trials),
        "found": {f"{factor:g}": share(found[factor], trials) for factor in SLOWDOWNS},
    }  # fmt: skip


def apart(logs: np.ndarray) -> float:
    """The widest ratio between two sessions in any case, less one; logs: [case, session]."""
    return float(np.exp(np.ptp(logs.astype(float), axis=1).max()) - 1)


def share(count: int, trials: int) -> tuple[float, float, float]:
    """With Clopper and Pearson's 95 % interval."""
    interval = stats.binomtest(count, trials).proportion_ci(method="exact")
    return count / trials, float(interval.low), float(interval.high)


def _text(value: tuple[float, float, float]) -> str:
    return f"{100 * value[0]:.1f} % [{100 * value[1]:.1f}, {100 * value[2]:.1f}]"


def run(folder: Path, quick: bool) -> Finding:
    sessions, rounds, trials = (3, 6, 200) if quick else (SESSIONS, interleave.ROUNDS, TRIALS)
    data = collect(folder, sessions, rounds)
    seed = 20
    found = {
        "interleaved": rates(data, interleaved, rounds, trials, seed),
        "stored": rates(data, stored, rounds, trials, seed),
    }
    text, claims = [], []
    for name, rate in found.items():
        slow = "; ".join(
            f"{100 * (float(f) - 1):.0f} % slower: {_text(v)}" for f, v in rate["found"].items()
        )
        text.append(
            f"{name}: {rate['trials']} comparisons of {rate['cases']} cases over {rate['rounds']} "
            f"rounds a side. A false alarm in {_text(rate['alarms'])} of them, a false regression "
            f"(exit status 1) in {_text(rate['regressions'])}. {SLOWED} found when {slow}."
        )
        claims.append(Claim(
            f"{name}: false alarms in at most {100 * ALARMS:.0f} % of the comparisons",
            _text(rate["alarms"]), rate["alarms"][0] <= ALARMS,
        ))  # fmt: skip
    sharp = found["interleaved"]["found"]["1.05"]
    claims.append(Claim(
        f"interleaved: one kernel slower by 5 % is found in at least {100 * FOUND:.0f} %",
        _text(sharp), sharp[0] >= FOUND,
    ))  # fmt: skip
    text.append(
        "Between two sessions the ceilings moved by up to "
        f"{apart(data.ceilings.mean(axis=-1)):.1%}, a case by up to "
        f"{apart(data.log_ns.mean(axis=(2, 3))):.1%}: why the drift that is carried is that of the "
        "cases too."
    )
    busy = int(data.slowed.any(axis=(0, 2)).sum())
    text.append(
        f"{sessions} sessions; in {busy} of them other work slowed the machine for most rounds of a "
        "case or more, on which comparisons of stored runs give no verdict."
    )
    pairs = data.log_ns[..., 1] - data.log_ns[..., 0]
    numbers = found | {"pair_noise": {
        f"{kernel} {case[:6]}": float(np.std(p))
        for kernel, case, p in zip(data.kernels, data.cases, pairs, strict=True)
    }}  # fmt: skip
    (folder / "rates.json").write_text(json.dumps(numbers, indent=1) + "\n")
    return Finding(text, claims, numbers)


STUDY = Study(
    "comparing",
    "How often does `compare` raise a false alarm, and what slowdown does it find?",
    "False alarms in at most 5 % of the comparisons (Holm's correction holds it there when the "
    "rounds are exchangeable); a slowdown of 5 % of one kernel found in 90 % when both builds are "
    "measured in turn; less between sessions, whose drift is carried.",
    run,
)
