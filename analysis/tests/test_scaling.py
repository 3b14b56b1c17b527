# SPDX-License-Identifier: Apache-2.0
"""Threads, the physical model and budgets give back what the data were made with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import record, sweep, write_run

from attnbench import records, report, scaling


def summary(path: Path, lines: list[dict[str, Any]]) -> pd.DataFrame:
    return records.summarise(records.load(write_run(path, lines)))


def test_the_serial_fraction_is_the_one_that_was_put_in(tmp_path: Path) -> None:
    serial = {"flash": 0.02, "naive": 0.25}
    lines = [
        record(kernel, n, 64, r, [1e3 * n * (s + (1 - s) / p)] * 6, threads=p,
               case=f"{kernel}-{n}-{p}")
        for kernel, s in serial.items() for p in (1, 2, 4) for n in (256, 1024) for r in range(3)
    ]  # fmt: skip
    found = scaling.threads(summary(tmp_path / "run", lines))
    assert len(found) == 2 * 3 * 2
    for kernel, s in serial.items():
        own = found[(found["kernel"] == kernel) & (found["threads"] > 1)]
        assert own["serial"].to_numpy() == pytest.approx(s)
        four = own[own["threads"] == 4].iloc[0]
        assert four["speedup"] == pytest.approx(1 / (s + (1 - s) / 4))
        assert four["efficiency"] == pytest.approx(four["speedup"] / 4)
    table = scaling.thread_table(summary(tmp_path / "run", lines))
    assert len(table.rows) == 6 and {row[1] for row in table.rows} == {"1024"}
    assert [row[-1] for row in table.rows if row[0] == "naive"] == ["", "0.250", "0.250"]


def test_a_size_without_all_thread_counts_is_no_speed_up(tmp_path: Path) -> None:
    lines = [record("flash", 256, 64, r, [1e6], threads=p, case=f"{p}")
             for p in (1, 2) for r in range(3)]  # fmt: skip
    lines += [record("flash", 512, 64, r, [1e6], threads=2, case="only2") for r in range(3)]
    assert set(scaling.threads(summary(tmp_path / "run", lines))["keys"]) == {256}
    assert scaling.thread_table(summary(tmp_path / "one", lines[:3])).rows == []


def test_the_physical_model_is_told_from_the_sweep(tmp_path: Path) -> None:
    lines = [
        record("flash", n, d, r, [5e3 + 0.04 * n * d**2 + 0.02 * n**2 * d])
        for n in (128, 512, 2048) for d in (32, 64, 128) for r in range(3)
    ]  # fmt: skip
    (row,) = scaling.physical_table(summary(tmp_path / "run", lines)).rows
    assert row[:4] == ["flash", "5.00 µs", "4.00e-02", "2.00e-02"]
    assert row[5] == "2 d" and row[6] == row[7] == "0 %"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.5s", ("time", 1.5e9)), ("200 ms", ("time", 2e8)), ("2h", ("time", 7.2e12)),
     ("8GiB", ("memory", 2.0**33)), ("512 mib", ("memory", 2.0**29))],
)  # fmt: skip
def test_budgets_are_read(text: str, expected: tuple[str, float]) -> None:
    assert scaling.parse_budget(text) == expected


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1.2.3s", "1e999s", "8 potatoes"])
def test_what_is_no_budget_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="--budget"):
        scaling.parse_budget(text)


def test_a_budget_gives_the_size_that_fits(tmp_path: Path) -> None:
    lines = sweep(sizes=[2**k for k in range(7, 15)], round_noise=0, sample_noise=0)
    run = report.read([str(write_run(tmp_path / "run", lines))])
    fits = (run.time, run.time_fits, run.memory, run.memory_fits)
    rows = {row[0].split(" ")[0]: row for row in scaling.budget_table("1s", *fits).rows}
    largest = float(rows["naive"][1].split(" ")[0])
    assert largest == pytest.approx(np.sqrt((1e9 - 3e3) / (0.25 * 64)), rel=0.01)
    assert rows["naive"][2] == ""
    assert re.fullmatch(r"\d\d+× the sizes measured", rows["local_window"][2])
    memory = {row[0].split(" ")[0]: row for row in scaling.budget_table("1GiB", *fits).rows}
    assert float(memory["naive"][1].split(" ")[0]) == pytest.approx(2**14, rel=0.01)
