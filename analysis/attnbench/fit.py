# SPDX-License-Identifier: Apache-2.0
"""Growth: local slopes, then t = a + b*n^p with an interval on p, crossings and budgets.

A plain log-log line answers "what is the exponent" wrongly wherever a constant cost (a launch, a
call, a cache that still fits) bends the small sizes: FlashAttention's published dense times give
1.46 by the line and 2.0 by a + b*n^p. Hence the constant in the model, relative weights (a size
counts by its relative error, else the largest would decide alone), and no R^2, which is near 1 for
both answers.

Intervals are honest about two things, noise and the model: they are Student's, from how far the sizes
lie off the law, whatever put them there (fits of the law scattered by as much are drawn). What every
round repeats, the overhead of small sizes or a cache that is left, no resampling of rounds can show:
alone it covers the true exponent in 60 % of trials where each size is off by 5 %. It counts only
where rounds scatter the fit by more than sizes do. The interval of p also covers the fits that leave
one size out. With fewer than PROVISIONAL_BELOW sizes p is labelled provisional. The least squares
themselves are power_law.py's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from attnbench import records as records_module
from attnbench.power_law import LARGEST_EXPONENT, fit_many, largest, last_crossing
from attnbench.variants import GROWTH, SIZES

PROVISIONAL_BELOW = 8
FEWEST_SIZES = 4  # three parameters, one size left to contradict them
# Memory that stays within this factor over a whole sweep is pages and stacks: it has no exponent.
FLAT_WITHIN = 2.0
# An exponent whose 95 % interval is wider than this is none: n log n and n^3 would both lie in it.
WIDEST_INTERVAL = 2.0
NO_POWER = "no power"  # the last size stands apart from all others
QUANTITIES = {"time": "median_ns", "memory": "peak_rss_bytes"}


@dataclass(frozen=True)
class Fit:
    """y = offset + scale * n^exponent over sizes n_min ... n_max; y in the unit that was given."""

    offset: float
    scale: float
    exponent: float
    low: float  # 95 % interval of the exponent
    high: float
    sizes: np.ndarray
    values: np.ndarray  # medians that were fitted
    rounds: int
    draws: np.ndarray = field(repr=False)  # [resamples, 3]: offset, scale, exponent
    freedom: int  # degrees of, in the draws' scatter

    @property
    def n_min(self) -> float:
        return float(self.sizes[0])

    @property
    def n_max(self) -> float:
        return float(self.sizes[-1])

    @property
    def provisional(self) -> bool:
        return len(self.sizes) < PROVISIONAL_BELOW

    @property
    def slopes(self) -> np.ndarray:
        return local_slopes(self.sizes, self.values)

    def at(self, n: float | np.ndarray) -> np.ndarray:
        return self.offset + self.scale * np.asarray(n, float) ** self.exponent

    def interval_at(self, n: float) -> tuple[float, float]:
        """95 % interval of the fitted value at n (beyond n_max at the model's risk)."""
        values = self.draws[:, 0] + self.draws[:, 1] * n ** self.draws[:, 2]
        return _student_log(float(self.at(n)), values, self.freedom)

    def largest_n(self, budget: float) -> tuple[float, float, float]:
        """The n at which y reaches `budget`, with its 95 % interval; 0 where a alone exceeds it."""
        draws = largest(self.draws, budget)
        here = largest(np.array([[self.offset, self.scale, self.exponent]]), budget)[0]
        return float(here), *_student_log(float(here), draws, self.freedom)


def local_slopes(n: npt.ArrayLike, y: npt.ArrayLike) -> np.ndarray:
    """d log y / d log n between neighbouring sizes: [len(n) - 1]."""
    return np.diff(np.log(np.asarray(y, float))) / np.diff(np.log(np.asarray(n, float)))


def loglog_exponent(n: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """The plain least-squares line through (log n, log y), for comparison with other works."""
    return float(np.polyfit(np.log(np.asarray(n, float)), np.log(np.asarray(y, float)), 1)[0])


def fit_power(n: npt.ArrayLike, y: npt.ArrayLike) -> tuple[float, float, float]:
    """(a, b, p) of y = a + b*n^p, a >= 0, b > 0, 0 <= p <= 6, least squares of relative errors."""
    return tuple(fit_many(np.asarray(n, float), np.asarray(y, float)[None, :])[0])


def fit_rounds(
    n: npt.ArrayLike, values: npt.ArrayLike,
    resamples: int = 400, seed: int = 0,
) -> Fit:  # fmt: skip
    """Fits one value a size and round.

    n: [sizes] ascending. values: [rounds, sizes], nan where a size has no such round.
    Raises ValueError on fewer than four sizes or values that are not positive.
    """
    sizes = np.asarray(n, float)
    matrix = np.atleast_2d(np.asarray(values, float))
    if len(sizes) < FEWEST_SIZES:
        raise ValueError(f"sizes: a fit needs {FEWEST_SIZES} or more, has {len(sizes)}")
    if (np.diff(sizes) <= 0).any() or matrix.shape[1] != len(sizes):
        raise ValueError("sizes: must ascend, one a column of values")
    medians = np.nanmedian(matrix, axis=0)
    if not (medians > 0).all():
        raise ValueError("values: must be positive at every size")
    offset, scale, exponent = fit_many(sizes, medians[None, :])[0]
    draws, freedom = _draw(sizes, matrix, medians, (offset, scale, exponent), resamples, seed)
    without_one = [
        fit_many(np.delete(sizes, i), np.delete(medians, i)[None, :])[0, 2]
        for i in range(len(sizes))
    ]
    reach = _student(freedom) * float(np.std(draws[:, 2]))
    low, high = max(exponent - reach, 0.0), min(exponent + reach, LARGEST_EXPONENT)
    return Fit(
        offset, scale, exponent,
        float(min(low, *without_one)), float(max(high, *without_one)),
        sizes, medians, len(matrix), draws, freedom,
    )  # fmt: skip


def crossover(first: Fit, second: Fit) -> dict[str, Any] | None:
    """The n from which the curve that is lower at large n stays lower, with its 95 % interval.

    None when the curves do not cross between the smallest size and 64 times the largest.
    `share` is the share of resamples that cross at all; `extrapolated`: beyond the sizes measured.
    """
    begin = max(first.n_min, second.n_min)
    end = min(first.n_max, second.n_max)
    grid = np.geomspace(begin, 64 * max(first.n_max, second.n_max), 600)
    ones, others = (np.array([[f.offset, f.scale, f.exponent]]) for f in (first, second))
    centre = last_crossing(ones, others, grid)[0]
    if np.isnan(centre):
        return None
    count = min(len(first.draws), len(second.draws))
    crossings = last_crossing(first.draws[:count], second.draws[:count], grid)
    found = crossings[~np.isnan(crossings)]
    parts = [  # what each curve adds to the variance, for Welch's degrees of freedom
        np.nanvar(np.log(last_crossing(first.draws, np.repeat(others, len(first.draws), 0), grid))),
        np.nanvar(np.log(last_crossing(np.repeat(ones, len(second.draws), 0), second.draws, grid))),
    ]
    freedom = _welch(parts, [first.freedom, second.freedom])
    low, high = _student_log(float(centre), found, freedom)
    return {
        "n": float(centre), "low": low, "high": high,
        "share": len(found) / count,
        "extrapolated": bool(centre > end),
    }  # fmt: skip


def fit_shape(n: npt.ArrayLike, d: npt.ArrayLike, y: npt.ArrayLike) -> tuple[float, ...]:
    """(a, b, c) >= 0 of y = a + b*n*d^2 + c*n^2*d, relative weights: a second, physical view.

    b is what projections and other per-token work cost, c what the pairs do.
    """
    from scipy.optimize import nnls

    size, width, time = (np.asarray(x, float) for x in (n, d, y))
    terms = [np.ones_like(time), size * width**2, size**2 * width]
    columns = np.stack(terms, axis=1) / time[:, None]
    scale = np.linalg.norm(columns, axis=0)
    solution, _ = nnls(columns / scale, np.ones_like(time))
    return tuple(solution / scale)


def growth_axis(frame: pd.DataFrame) -> str:
    """The size that this frame is a sweep over: the one with most values, keys winning ties."""
    return max(GROWTH, key=lambda c: (frame[c].nunique() if c in frame else 0, -GROWTH.index(c)))


def growth_axes(frame: pd.DataFrame) -> list[str]:
    """The sizes along which exponents can be fitted: the sweep's own first, then every other that
    some series takes at least four values of."""
    first = growth_axis(frame)
    axes = [first]
    for size in GROWTH:
        moves = any((frame[size] == frame[a]).all() for a in axes if size in frame)
        if size not in frame or size in axes or moves or frame[size].nunique() < FEWEST_SIZES:
            continue
        by = series_columns(frame, size)
        if frame.groupby(by, dropna=False)[size].nunique().max() >= FEWEST_SIZES:
            axes.append(size)
    return axes


def grown(frame: pd.DataFrame, by: list[str], over: str) -> pd.DataFrame:
    """The cases of series that were swept along `over`. A sweep may cross two axes in one point:
    what stands off this one is no series of it. All cases where no series was swept."""
    swept = frame.groupby(by, dropna=False)[over].transform("nunique") > 1
    return frame[swept] if swept.any() else frame


def series_columns(frame: pd.DataFrame, over: str) -> list[str]:
    """What stays fixed along one series of a sweep over `over`: label and the other sizes.

    A size that moves with `over` (queries = keys, v_dim = head_dim) is no column of its own.
    """
    ties = {"keys": "queries", "queries": "keys", "head_dim": "v_dim", "v_dim": "head_dim",
            "heads": "kv_heads", "kv_heads": "heads"}  # fmt: skip
    columns = ["label"]
    for size in SIZES:
        if size == over or size not in frame or frame[size].nunique(dropna=False) <= 1:
            continue
        tied = ties.get(size)
        same = tied is not None and tied in frame and (frame[size] == frame[tied]).all()
        if same and (tied == over or tied in columns):
            continue
        columns.append(size)
    return columns


def fit_summary(
    records: pd.DataFrame, summary: pd.DataFrame, quantity: str = "time", over: str | None = None,
    resamples: int = 400, seed: int = 0,
) -> tuple[pd.DataFrame, list[Fit | None]]:  # fmt: skip
    """Fits every series of a sweep. Returns the table, one row a series, and the fits beside it.

    Columns: label, kernel, the fixed sizes, exponent, low, high, offset, scale (ns or bytes),
    n_min, n_max, sizes, rounds, last_slope, provisional, note. A series too short for a fit stays,
    with its last local slope and the note that says why. What was fitted once is remembered with
    the summary: a report's tables and figures ask for the same fits. attrs["alone"]: how many
    series have a single size.
    """
    over = over or growth_axis(summary)
    good = summary[summary["status"] == "ok"]
    key = (quantity, over, resamples, seed, *good["case"], *good["label"])
    known = summary.attrs.setdefault("fits", records_module.Facts())
    if key not in known:
        known[key] = _fit_summary(records, summary, quantity, over, resamples, seed)
    return known[key]


def _fit_summary(
    records: pd.DataFrame,
    summary: pd.DataFrame,
    quantity: str,
    over: str,
    resamples: int,
    seed: int,
) -> tuple[pd.DataFrame, list[Fit | None]]:
    column = QUANTITIES[quantity]
    by = series_columns(summary, over)
    values = (
        records_module.round_medians(records, column)
        .groupby(["source", "case", "session", "round"])[column].last().reset_index()
    )  # fmt: skip
    values = values[values[column] > 0]
    rows, fits = [], []
    asked = grown(summary, by, over)
    for key, group in asked[asked["status"] == "ok"].groupby(by, sort=False):
        cases = group.drop_duplicates(over).sort_values(over)
        own = values.merge(cases[["source", "case", over]], on=["source", "case"])
        row = dict(zip(by, key, strict=True)) | group.iloc[0][["kernel", "source"]].to_dict()
        row |= _describe(own, over, column, resamples, seed)
        fits.append(row.pop("fit"))
        rows.append(row)
    table = pd.DataFrame(rows)
    measured = summary[summary["status"] == "ok"].groupby(by, dropna=False)[over].nunique()
    alone = int((measured == 1).sum())
    table.attrs = {"over": over, "quantity": quantity, "by": by, "alone": alone}
    return table, fits


def _describe(
    own: pd.DataFrame, over: str, column: str, resamples: int, seed: int
) -> dict[str, Any]:
    matrix = own.pivot_table(index=["session", "round"], columns=over, values=column)
    sizes, rounds = matrix.columns.to_numpy(float), len(matrix)
    medians = np.nanmedian(matrix.to_numpy(), axis=0) if len(sizes) else np.array([])
    row: dict[str, Any] = {
        "fit": None, "exponent": np.nan, "low": np.nan, "high": np.nan, "offset": np.nan,
        "scale": np.nan, "sizes": len(sizes), "rounds": rounds,
        "n_min": sizes[0] if len(sizes) else np.nan, "n_max": sizes[-1] if len(sizes) else np.nan,
        "last_slope": local_slopes(sizes, medians)[-1] if len(sizes) > 1 else np.nan,
        "provisional": len(sizes) < PROVISIONAL_BELOW, "note": "",
    }  # fmt: skip
    if len(sizes) < FEWEST_SIZES:
        row["note"] = f"{len(sizes)} sizes: too few for a fit"
        return row
    spread = medians.max() / medians.min()
    if column == QUANTITIES["memory"] and spread < FLAT_WITHIN:
        row["note"] = f"flat, within {spread:.1f}×"
        return row
    fit = fit_rounds(sizes, matrix.to_numpy(), resamples, seed)
    if fit.exponent > LARGEST_EXPONENT - 0.01:
        row["note"] = NO_POWER
        return row
    if fit.high - fit.low > WIDEST_INTERVAL:
        row["note"] = f"undetermined: [{fit.low:.2f}, {fit.high:.2f}]"
        return row
    row |= {"fit": fit, "exponent": fit.exponent, "low": fit.low, "high": fit.high,
            "offset": fit.offset, "scale": fit.scale}  # fmt: skip
    if fit.provisional:
        row["note"] = f"provisional: {len(sizes)} sizes"
    return row


def _draw(
    sizes: np.ndarray, matrix: np.ndarray, medians: np.ndarray,
    law: tuple[float, float, float], resamples: int, seed: int,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Fits that scatter as the fit does, [resamples, 3], and the degrees of freedom in that: by the
    residuals of the sizes, or by resampled rounds where those scatter the exponent by more, beyond
    chance (noise that sits at one size, say)."""
    offset, scale, exponent = law
    fitted = offset + scale * sizes**exponent
    residuals = np.log(medians / fitted)
    freedom = len(sizes) - (3 if offset > 0 else 2)
    spread = np.sqrt(residuals @ residuals / freedom)
    own = np.random.default_rng([seed, *medians.view(np.uint64)])  # curves scatter apart
    scatter = own.normal(0, spread, (resamples, len(sizes)))
    scattered = fitted * np.exp(scatter)
    if offset > 0:
        by_sizes = fit_many(sizes, scattered)
    else:  # a power alone, a line of logarithms: a constant was no parameter of the fit
        p, log_scale = np.polyfit(np.log(sizes), np.log(scattered).T, 1)
        by_sizes = np.stack([np.zeros(resamples), np.exp(log_scale), p], axis=1)
    rounds = len(matrix)
    if rounds == 1:
        return by_sizes, freedom
    by_rounds = fit_many(sizes, _resample_rounds(matrix, medians, resamples, seed))
    variance, of_rounds = (np.var(draws[:, 2]) for draws in (by_sizes, by_rounds))
    beyond_chance = of_rounds > special.fdtri(rounds - 1, freedom, 0.95) * variance
    wider = _student(rounds - 1) ** 2 * of_rounds > _student(freedom) ** 2 * variance
    return (by_rounds, rounds - 1) if beyond_chance and wider else (by_sizes, freedom)


def _student(freedom: float) -> float:
    """How many standard errors a 95 % interval reaches."""
    return float(special.stdtrit(freedom, 0.975))


def _welch(variances: list[float], freedoms: list[int]) -> float:
    """Degrees of freedom of a sum of variances (Welch 1947, Satterthwaite 1946)."""
    divisor = sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    return sum(variances) ** 2 / divisor if divisor > 0 else min(freedoms)


def _student_log(centre: float, draws: np.ndarray, freedom: float) -> tuple[float, float]:
    """95 % interval around a positive estimate from its resamples; (centre, centre) without any."""
    draws = draws[draws > 0]
    spread = np.std(np.log(draws)) if centre > 0 and len(draws) > 1 else 0.0
    reach = np.exp(_student(freedom) * spread)
    return float(centre / reach), float(centre * reach)


def _resample_rounds(
    matrix: np.ndarray, medians: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """Medians over resampled rounds: [resamples, sizes]; a size left without a round keeps its own."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(matrix), size=(resamples, len(matrix)))
    drawn = matrix[chosen]  # [resamples, rounds, sizes]
    empty = np.isnan(drawn).all(axis=1)
    drawn[:, 0][empty] = np.broadcast_to(medians, empty.shape)[empty]
    return np.nanmedian(drawn, axis=1)
