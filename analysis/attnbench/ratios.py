# SPDX-License-Identifier: Apache-2.0
"""Two cases of one problem: which problems a run has, and the ratio of two cases' times.

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
_TILES = ("tile", "band", "dilation", "global_tiles", "random_tiles")
_MASK = ("pattern", "window", "stride", "mask_columns", "sinks", "causal", *_TILES)
_CONDITIONS = (*variants.SIZES, "offset", "score", "softcap", "threads", "cache")


def problems(summary: pd.DataFrame) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """The problems, with their mask in words, and their cases."""
    columns = ["source", *(c for c in (*_CONDITIONS, "dtype", *_MASK) if c in summary)]
    for key, group in summary.groupby(columns, sort=False, dropna=False):
        named: dict[str, object] = dict(zip(columns, key, strict=True))
        yield named | {"mask": variants.mask_label(group.iloc[0])}, group


def problem_columns(data: pd.DataFrame) -> list[str]:
    """What tells the problems of rows apart: conditions that vary, mask, dtype."""
    return [*variants.telling(data, ("run", *_CONDITIONS)), "mask", "dtype"]


def medians_of_rounds(frame: pd.DataFrame) -> pd.DataFrame:
    indexed = records.round_medians(frame).set_index(["source", "case", "session", "round"])
    return indexed.sort_index()


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
