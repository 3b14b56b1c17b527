# SPDX-License-Identifier: Apache-2.0
"""A sweep of layers over length and width: both exponents are found and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_runs import record, write_run

from attnbench import figures, fit, records, report, tables
from attnbench.figures import _speedup

LENGTHS = tuple(64 * 2**i for i in range(8))
WIDTHS = (32, 48, 64, 96, 128, 192, 256, 384)


def layer_record(kernel: str, n: int, d: int, round_index: int, rng: Any) -> dict[str, Any]:
    """Attention takes n^2 d, a recurrence n d^2; the two sweeps cross at n = 512, d = 64."""
    true_ns = 0.02 * (n * n * d if kernel == "self_attention" else 8 * n * d * d)
    made = record(kernel, n, d, round_index, true_ns * np.exp(0.01 * rng.normal(size=9)))
    problem = made.pop("problem") | {
        "head_dim": d, "v_dim": d, "d_model": d, "d_out": d, "width": 0, "encoding": "none",
        "cross": False, "attention": "auto",
    }  # fmt: skip
    return made | {
        "kind": "layer", "layer_problem": problem, "options": {}, "parameters": 4 * d * d,
        "sequential_operations": 1 if kernel == "self_attention" else n, "peak_rss_bytes": 4096 * n,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(2)
    points = {(n, 64) for n in LENGTHS} | {(512, d) for d in WIDTHS}
    made = [
        layer_record(kernel, n, d, round_index, rng)
        for round_index in range(4)
        for kernel in ("self_attention", "lstm")
        for n, d in sorted(points)
    ]
    return write_run(tmp_path_factory.mktemp("runs") / "table1", made)


def test_the_width_of_a_layer_is_d_model(run: Path) -> None:
    frame = records.load(run)
    assert set(frame["d_model"]) == set(WIDTHS)
    assert frame["head_dim"].isna().all()
    assert (frame["sequential_operations"] == frame["keys"])[frame["kernel"] == "lstm"].all()
    assert set(records.summarise(frame)["label"]) == {"self_attention", "lstm"}


def test_both_axes_have_their_exponents(run: Path) -> None:
    frame = records.load(run)
    summary = records.summarise(frame)
    assert fit.growth_axes(summary) == ["keys", "d_model"]
    expected = {
        ("self_attention", "keys"): 2, ("lstm", "keys"): 1,
        ("self_attention", "d_model"): 1, ("lstm", "d_model"): 2,
    }  # fmt: skip
    for over in ("keys", "d_model"):
        table, _ = fit.fit_summary(frame, summary, over=over)
        assert len(table) == 2  # the other sweep's points are no series of this one
        assert (table["sizes"] == 8).all()
        for _, row in table.iterrows():
            assert row["exponent"] == pytest.approx(expected[row["label"], over], abs=0.05)


def test_the_report_shows_both(run: Path) -> None:
    read = report.read([str(run)])
    shown = report.terminal(read)
    assert "time n^p" in shown
    assert "time d^p" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert tables.results(read.summary).header[:3] == ["kernel", "n", "d"]
    others = _speedup.ratios(read.summary, "lstm").groupby("label")["other_problem"].all()
    assert dict(others) == {"lstm": False, "self_attention": True}
    for name, over, sizes in (("time", "keys", LENGTHS), ("time_by_width", "d_model", WIDTHS)):
        figure = next(f for f in figures.FIGURES if f.name == name)
        drawing = figures.draw(figure, read.records, read.summary)
        assert drawing is not None
        assert len(drawing.data) == 2 * len(sizes)  # one panel, and nothing of the other sweep
        assert set(drawing.data[over]) == set(sizes)
