# SPDX-License-Identifier: Apache-2.0
"""Our kernels against kernels hosted in Python (PyTorch, ONNX Runtime, ...), problem by problem."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from attnbench import ratios, variants


def against_peers(
    frame: pd.DataFrame, summary: pd.DataFrame, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """One row a problem that both a kernel of ours and a peer were asked to solve.

    Columns: the problem's, mask (words), ours, ours_ns, peer, peer_ns, ratio (ours/peer, below 1
    is faster), low, high. A side that has no measured kernel leaves its fields empty. Empty frame
    where there are no peers.
    """
    rng = np.random.default_rng(seed)
    medians = ratios.medians_of_rounds(frame)
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
            row["ratio"], row["low"], row["high"] = ratios.time_ratio(
                medians, own, theirs, rng, resamples
            )
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
    medians, runs = ratios.medians_of_rounds(frame), variants.source_names(summary)
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
                ratio, low, high = ratios.time_ratio(medians, case, best, rng, resamples)
                row |= {"speed": 1 / ratio, "low": 1 / high, "high": 1 / low,
                        "percent_of_ceiling": 100 * case["fraction_of_ceiling"]}  # fmt: skip
            rows.append(row | {"run": runs[own["source"].iloc[0]]})
    return pd.DataFrame(rows)


def beside_ours(summary: pd.DataFrame) -> bool:
    """Whether both kernels hosted in Python and native ones are among the cases."""
    return (summary["host"] == "python").nunique() == 2


def _problems(summary: pd.DataFrame) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """The problems that ours and peers were asked to solve."""
    return ((problem, group) for problem, group in ratios.problems(summary) if beside_ours(group))


def _fastest(group: pd.DataFrame) -> pd.Series | None:
    good = group[group["status"] == "ok"]
    return None if good.empty else good.loc[good["median_ns"].idxmin()]
