# SPDX-License-Identifier: Apache-2.0
"""Our kernels against kernels hosted in Python (PyTorch, ONNX Runtime, ...), problem by problem.

Ratios are taken within a round, since both were measured minutes apart at most, and the interval
resamples rounds; where no round holds both, the medians are compared and no interval is given.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from attnbench import records, variants

# What makes two cases the same problem on the same input, solved under the same conditions: what
# the words for a mask tell, and what they do not.
_MASK = ("pattern", "window", "stride", "mask_columns", "sinks", "causal")
_CONDITIONS = (*variants.SIZES, "offset", "score", "softcap", "threads", "cache")


def against_peers(
    frame: pd.DataFrame, summary: pd.DataFrame, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """One row a problem that both a kernel of ours and a peer were asked to solve.

    Columns: the problem's, mask (words), ours, ours_ns, peer, peer_ns, ratio (ours/peer, below 1
    is faster), low, high. A side that has no measured kernel leaves its fields empty. Empty frame
    where there are no peers.
    """
    rng = np.random.default_rng(seed)
    medians = medians_of_rounds(frame)
    rows = []
    for problem, group in _problems(summary):
        hosted = group["host"] == "python"
        own, theirs = _fastest(group[~hosted]), _fastest(group[hosted])
        row = problem | {"ours": "", "ours_ns": np.nan, "peer": "", "peer_ns": np.nan,
                         "ratio": np.nan, "low": np.nan, "high": np.nan}  # fmt: skip
        for side, case in (("ours", own), ("peer", theirs)):
            if case is not None:
                row |= {side: case["kernel"], f"{side}_ns": case["median_ns"]}
        if own is not None and theirs is not None:
            row["ratio"], row["low"], row["high"] = time_ratio(medians, own, theirs, rng, resamples)
        rows.append(row)
    return pd.DataFrame(rows)


def over_best_peer(
    frame: pd.DataFrame, summary: pd.DataFrame, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """One row a problem and kernel, ours and peers (a kernel's fastest variant, if measured).

    Columns: the summary's, run (what the source is called), mask (words), speed (the time of the
    best peer over the kernel's, above 1 is faster), low, high, percent_of_ceiling. Problems
    that no peer solved have no rows; empty frame where there are none.
    """
    rng = np.random.default_rng(seed)
    medians, runs = medians_of_rounds(frame), variants.source_names(summary)
    rows = []
    for problem, group in _problems(summary):
        best = _fastest(group[group["host"] == "python"])
        for _, own in group.groupby("kernel", sort=False):
            case = _fastest(own)
            if best is None:
                continue
            row = (own.iloc[0] if case is None else case).to_dict() | problem
            row |= {"speed": np.nan, "low": np.nan, "high": np.nan, "percent_of_ceiling": np.nan}
            if case is not None:
                ratio, low, high = time_ratio(medians, case, best, rng, resamples)
                row |= {"speed": 1 / ratio, "low": 1 / high, "high": 1 / low,
                        "percent_of_ceiling": 100 * case["fraction_of_ceiling"]}  # fmt: skip
            rows.append(row | {"run": runs[own["source"].iloc[0]]})
    return pd.DataFrame(rows)


def problem_columns(data: pd.DataFrame) -> list[str]:
    """What tells the problems of over_best_peer's rows apart: conditions that vary, mask, dtype."""
    return [*variants.telling(data, ("run", *_CONDITIONS)), "mask", "dtype"]


def beside_ours(summary: pd.DataFrame) -> bool:
    """Whether both kernels hosted in Python and native ones are among the cases."""
    return (summary["host"] == "python").nunique() == 2


def _problems(summary: pd.DataFrame) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """The problems that ours and peers were asked to solve."""
    return ((problem, group) for problem, group in problems(summary) if beside_ours(group))


def problems(summary: pd.DataFrame) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """The problems, with their mask in words, and their cases."""
    columns = ["source", *(c for c in (*_CONDITIONS, "dtype", *_MASK) if c in summary)]
    for key, group in summary.groupby(columns, sort=False, dropna=False):
        named: dict[str, object] = dict(zip(columns, key, strict=True))
        yield named | {"mask": variants.mask_label(group.iloc[0])}, group


def medians_of_rounds(frame: pd.DataFrame) -> pd.DataFrame:
    indexed = records.round_medians(frame).set_index(["source", "case", "session", "round"])
    return indexed.sort_index()


def _fastest(group: pd.DataFrame) -> pd.Series | None:
    good = group[group["status"] == "ok"]
    return None if good.empty else good.loc[good["median_ns"].idxmin()]


def time_ratio(
    medians: pd.DataFrame, own: pd.Series, theirs: pd.Series, rng: np.random.Generator,
    resamples: int,
) -> tuple[float, float, float]:  # fmt: skip
    """Of two cases' times, with its 95 % interval over the rounds that they share."""
    sides = [medians.loc[(c["source"], c["case"])]["median_ns"] for c in (own, theirs)]
    shared = sides[0].index.intersection(sides[1].index)
    if len(shared) < 2:
        return own["median_ns"] / theirs["median_ns"], np.nan, np.nan
    logs = np.log(sides[0][shared].to_numpy() / sides[1][shared].to_numpy())
    drawn = np.median(logs[rng.integers(len(logs), size=(resamples, len(logs)))], axis=1)
    low, high = np.exp(np.percentile(drawn, [2.5, 97.5]))
    return float(np.exp(np.median(logs))), float(low), float(high)
