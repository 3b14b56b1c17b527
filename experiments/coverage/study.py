# SPDX-License-Identifier: Apache-2.0
"""Whether the 95 % intervals of the fits hold what they promise, on seeds that nobody has seen.

Times with a known law and noise are drawn anew in every run (the seed comes from the clock and is
kept with the numbers), fitted as a sweep's are, and the intervals asked whether they cover: of the
exponent, of the n at which two kernels cross, of the largest n within a budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from attnbench import fit
from attnbench.studies import Claim, Finding, Study

TRIALS = 200
WANTED = (0.90, 0.99)
NOISE = 0.03  # a size and round, relative
# offset [ns], scale, exponent, rounds, drift common to a round's sizes, sizes; then what every round
# repeats: how far a size lies off the law
LAWS = {
    "n^2, constant cost, 6 rounds": (2e4, 1, 2.0, 6, 0.0, 9),
    "the same, rounds drift by 5 %": (2e4, 1, 2.0, 6, 0.05, 9),
    "n^2, no constant": (0, 1, 2.0, 6, 0.0, 9),
    "n^1.5, 8 rounds": (1e4, 3, 1.5, 8, 0.0, 9),
    "n^1, 3 rounds": (0, 9, 1.0, 3, 0.0, 9),
    "n^2, 12 rounds, 8 sizes": (5e4, 1, 2.0, 12, 0.02, 8),
    "n^2, 6 rounds, 5 sizes (provisional)": (2e4, 1, 2.0, 6, 0.0, 5),
    "sizes off by 5 %, constant cost": (2e4, 1, 2.0, 6, 0.0, 9, 0.05),
    "sizes off by 5 %, 5 sizes": (2e4, 1, 2.0, 6, 0.0, 5, 0.05),
}  # fmt: skip


def sizes(count: int) -> np.ndarray:
    return 64.0 * 2.0 ** np.arange(count)


def draw(
    rng: np.random.Generator, offset: float, scale: float, p: float, rounds: int, drift: float,
    count: int, off: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Times in ns: [rounds, count]."""
    noise = NOISE * rng.normal(size=(rounds, count)) + drift * rng.normal(size=(rounds, 1))
    noise += off * rng.normal(size=count)
    return (offset + scale * sizes(count) ** p) * np.exp(noise)


def exponent(rng: np.random.Generator, law: tuple[Any, ...], seed: int) -> bool:
    found = fit.fit_rounds(sizes(law[5]), draw(rng, *law), 200, seed)
    return found.low <= law[2] <= found.high


def crossing(rng: np.random.Generator, seed: int) -> bool:
    """n^2 against 1000 n: they change places at 1000."""
    n = sizes(8)
    fits = [
        fit.fit_rounds(n, draw(rng, 0, scale, p, 6, 0.0, 8), 200, seed)
        for scale, p in ((1, 2.0), (1e3, 1.0))
    ]
    found = fit.crossover(*fits)
    return found is not None and found["low"] <= 1000 <= found["high"]


def budget(rng: np.random.Generator, seed: int) -> bool:
    """2e4 + n^2 reaches 1e8 ns near 10^4, within the sizes measured."""
    found = fit.fit_rounds(sizes(9), draw(rng, 2e4, 1, 2.0, 6, 0.0, 9), 200, seed)
    _, low, high = found.largest_n(1e8)
    return low <= np.sqrt(1e8 - 2e4) <= high


def covered(trial: Callable[[np.random.Generator, int], bool], trials: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    return sum(trial(rng, i) for i in range(trials)) / trials


def run(folder: Path, quick: bool) -> Finding:
    trials = 60 if quick else TRIALS
    seed = time.time_ns() // 1_000_000
    questions: dict[str, Callable[[np.random.Generator, int], bool]] = {
        name: (lambda rng, i, law=law: exponent(rng, law, i)) for name, law in LAWS.items()
    }
    questions |= {"where two curves cross": crossing, "the largest n in a budget": budget}
    shares = {name: covered(trial, trials, seed + i) for i, (name, trial) in
              enumerate(questions.items())}  # fmt: skip
    # The share of so many trials scatters around the true coverage: by this much in 95 of 100.
    slack = stats.norm.ppf(0.975) * np.sqrt(0.95 * 0.05 / trials)
    low, high = WANTED
    claims = [
        Claim(f"{name}: the interval covers in {low:.0%} to {high:.0%} of {trials} trials",
              f"{share:.1%}", bool(low - slack * quick <= share <= high + slack * quick))
        for name, share in shares.items()
    ]  # fmt: skip
    text = [
        f"{trials} trials a law, {NOISE:.0%} noise a size and round, seed {seed}. Covered: "
        + "; ".join(f"{name} {share:.1%}" for name, share in shares.items())
        + "."
    ]
    return Finding(text, claims, {"seed": seed, "trials": trials, "covered": shares})


STUDY = Study(
    "coverage",
    "Do the intervals of exponents, crossings and budgets hold what they promise?",
    "95 % intervals cover the truth in 90 to 99 % of 200 trials, from 3 rounds to 12.",
    run,
)
