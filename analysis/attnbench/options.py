# SPDX-License-Identifier: Apache-2.0
"""What a kernel's options are worth: each setting against the usual one, problem by problem."""

from __future__ import annotations

import numpy as np
import pandas as pd

from attnbench import ratios, variants


def over_usual(
    frame: pd.DataFrame, summary: pd.DataFrame, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """One row a problem and setting of a kernel that was also measured with its usual options.

    Usual is what most settings have (``variants.usual_options``). Columns: the summary's, run (what
    the source is called), mask (words), setting (kernel and the options that are not as usual),
    speed (the usual setting's time over this one's, above 1 is faster), low, high. Empty frame
    where no kernel has such settings.
    """
    usual = {kernel: variants.usual_options(group) for kernel, group in summary.groupby("kernel")}
    if not any(usual.values()):
        return pd.DataFrame()
    rng = np.random.default_rng(seed)
    medians, runs = ratios.medians_of_rounds(frame), variants.source_names(summary)
    rows = []
    for problem, group in ratios.problems(summary):
        for kernel, own in group.groupby("kernel", sort=False):
            words = [variants.options_label(row, usual[kernel]) for _, row in own.iterrows()]
            base = own[[not w for w in words]]
            if len(own) < 2 or len(base) != 1 or base["status"].iloc[0] != "ok":
                continue
            for (_, case), differing in zip(own.iterrows(), words, strict=True):
                if not differing:
                    continue
                row = case.to_dict() | problem | {
                    "run": runs[case["source"]], "setting": f"{kernel} {', '.join(differing)}",
                    "speed": np.nan, "low": np.nan, "high": np.nan,
                }  # fmt: skip
                if case["status"] == "ok":
                    ratio, low, high = ratios.time_ratio(
                        medians, case, base.iloc[0], rng, resamples
                    )
                    row |= {"speed": 1 / ratio, "low": 1 / high, "high": 1 / low}
                rows.append(row)
    return pd.DataFrame(rows)
