# SPDX-License-Identifier: Apache-2.0
"""What a reader should know of how well a run was measured: its flags, in a line or two."""

from __future__ import annotations

from collections import Counter

import pandas as pd

# In the order of how much they matter, and what each says of a visit (results/SCHEMA.md).
MEANING = {
    "slowed": "the machine was over a tenth slower than at its best",
    "repeated": "measured once more for that, at the end",
    "hidden_memory": "took more memory than the workspace it declares",
    "preempted": "the processor served others for over 2 % of the time",
    "ceiling_drift": "the probes before and after differ by over a tenth",
    "no_warmup": "one run outlasts the limit",
    "outliers": "samples over 1.5 medians",
    "short_ring": "cold ring under three last-level caches",
    "no_memory_pass": "memory could not be measured",
}


def notes(records: pd.DataFrame) -> list[str]:
    """Sentences for a report; none where nothing was flagged and everything counted."""
    measured = records[records["status"] == "ok"]
    counts = Counter(flag for flags in measured["flags"] for flag in flags)
    found = []
    if counts:
        order = [*[f for f in MEANING if counts[f]], *sorted(set(counts) - set(MEANING))]
        listed = [f"{f} {counts[f]}{_kernels(measured, f)}" for f in order]
        found.append(f"Flags of {len(measured)} visits: {', '.join(listed)}.")
    if "counters_reason" in measured:
        reasons = [r for r in measured["counters_reason"].dropna().unique() if r]
        if reasons:
            found.append(f"Not all counters could be read: {reasons[0]}.")
    return found


def _kernels(measured: pd.DataFrame, flag: str) -> str:
    """Whose it is, where it is a matter of the kernel and not of the machine."""
    if flag != "hidden_memory":
        return ""
    names = measured.loc[[flag in f for f in measured["flags"]], "kernel"].unique()
    return f" ({', '.join(names)})"
