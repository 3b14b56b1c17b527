# SPDX-License-Identifier: Apache-2.0
"""Verdicts: a slowdown is found, noise is not called one, and nothing is left out of the list."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from scipy import stats
from synthetic_runs import ENVIRONMENT, record, sweep, with_gaps, write_run

from attnbench import compare, history, records


def run(
    tmp_path: Path, name: str, environment: dict[str, Any] | None = None, **changes: Any
) -> Path:
    settings: dict[str, Any] = {"session": name, "seed": len(name)} | changes
    return write_run(tmp_path / name, sweep(**settings), environment)


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    return compare.main(parser.parse_args(list(arguments)))


def test_a_slower_kernel_is_found_and_the_status_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = run(tmp_path, "old")
    new = run(tmp_path, "later", slower=lambda k, n: 1.10 if k == "flash" else 1.0)
    assert command(str(old), str(new)) == 1
    found = compare.compare(records.load(old), records.load(new)).table
    assert set(found[found["verdict"] == "SLOWER"]["label"]) == {"flash"}
    assert (found[found["label"] == "flash"]["verdict"] == "SLOWER").all()
    assert "SLOWER" in capsys.readouterr().out


def test_a_slower_choice_of_keys_is_a_slower_kernel(tmp_path: Path) -> None:
    def chosen(name: str, select_ns: float) -> Path:
        rounds = [
            record("top_blocks", 128, 64, r, [100.0 + r], select_ns=select_ns, session=name)
            for r in range(6)
        ]
        return write_run(tmp_path / name, rounds)

    found = compare.compare(records.load(chosen("old", 50)), records.load(chosen("new", 100)))
    assert list(found.table["verdict"]) == ["SLOWER"]
    assert found.table["ratio"][0] == pytest.approx(202.5 / 152.5, rel=1e-2)


def test_equal_runs_are_same_or_unclear_and_the_status_is_zero(tmp_path: Path) -> None:
    old, new = run(tmp_path, "old"), run(tmp_path, "later")
    assert command(str(old), str(new)) == 0
    found = compare.compare(records.load(old), records.load(new))
    assert set(found.table["verdict"]) <= {"SAME", "UNCLEAR"}
    assert found.geometric_mean == pytest.approx(1, abs=0.02)


def test_false_alarms_stay_rare_over_many_null_comparisons() -> None:
    """Holm holds the share of comparisons (of 20 cases each) with any alarm under 5 %."""
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(300):
        p = np.array([
            compare.log_ratio(0.05 * rng.normal(size=6), 0.05 * rng.normal(size=6))[3]
            for _ in range(20)
        ])  # fmt: skip
        alarms += (compare.holm(p) < compare.SIGNIFICANCE).any()
    assert alarms / 300 <= 0.08


def test_noise_is_unclear_not_same(tmp_path: Path) -> None:
    old = run(tmp_path, "old", round_noise=0.2)
    new = run(tmp_path, "later", round_noise=0.2)
    verdicts = compare.compare(records.load(old), records.load(new)).table["verdict"]
    assert set(verdicts) == {"UNCLEAR"}


def test_one_round_a_side_is_never_a_verdict(tmp_path: Path) -> None:
    old = run(tmp_path, "old", rounds=1)
    new = run(tmp_path, "later", rounds=1, slower=lambda k, n: 2.0)
    verdicts = compare.compare(records.load(old), records.load(new)).table["verdict"]
    assert set(verdicts) == {"UNCLEAR"}


def test_a_difference_within_the_drift_of_the_machine_is_no_regression(tmp_path: Path) -> None:
    old = run(tmp_path, "old")
    new = run(tmp_path, "later", slower=lambda k, n: 1.10, ceiling_gflops=90.0)
    found = compare.compare(records.load(old), records.load(new))
    assert found.drift == pytest.approx(np.log(100 / 90), rel=1e-3) and not found.regressed


def test_a_move_of_all_cases_between_sessions_is_carried_up_to_a_limit(tmp_path: Path) -> None:
    old = records.load(run(tmp_path, "old"))

    def compared(name: str, slower) -> compare.Comparison:  # type: ignore[no-untyped-def]
        return compare.compare(old, records.load(run(tmp_path, name, slower=slower)))

    mood = compared("mood", lambda k, n: 1.08)
    assert not mood.regressed and mood.drift == pytest.approx(np.log(1.08), abs=0.01)
    one = compared("one", lambda k, n: 1.08 * (1.3 if k == "flash" else 1)).table
    assert set(one[one["verdict"] == "SLOWER"]["label"]) == {"flash"}
    assert set(compared("build", lambda k, n: 1.5).table["verdict"]) == {"SLOWER"}


def test_a_slow_machine_is_no_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = run(tmp_path, "old", kernels=["flash", "naive"], sizes=[512])
    lines = sweep(session="busy", kernels=["flash", "naive"], sizes=[512], seed=9,
                  slower=lambda k, n: 2.0 if k == "naive" else 1.0)  # fmt: skip
    assert command(str(old), str(write_run(tmp_path / "untold", lines))) == 1
    for line in lines:
        if line["kernel"] == "naive" and line["round"] != 3:
            line["flags"] = ["slowed"]
    assert command(str(old), str(write_run(tmp_path / "busy", lines))) == 0
    assert "slowed in most rounds of 1 cases: no verdict" in capsys.readouterr().out
    found = compare.compare(records.load(old), records.load(tmp_path / "busy")).table
    assert set(found[found["label"] == "naive"]["verdict"]) == {"UNCLEAR"}


def test_rounds_of_one_session_are_paired(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    mood = np.exp(0.2 * rng.normal(size=8))  # of the round, the same for both sides
    sides = [
        [record("flash", 512, 64, r, factor * mood[r] * 1e6 * np.exp(0.002 * rng.normal(size=5)))
         for r in range(8)]
        for factor in (1.0, 1.05)
    ]  # fmt: skip
    old, new = (records.load(write_run(tmp_path / n, s)) for n, s in zip("ab", sides, strict=True))
    assert list(compare.compare(old, new).table["verdict"]) == ["SLOWER"]


def test_a_disturbed_round_neither_hides_a_slowdown_nor_makes_one() -> None:
    rng = np.random.default_rng(8)
    old = 14 + 0.005 * rng.normal(size=12)
    new = old + 0.005 * rng.normal(size=12)
    new[5] += 0.5
    assert compare.log_ratio(old, new, paired=True)[3] > 0.05
    centre, low, high, p = compare.log_ratio(old, new + np.log(1.03), paired=True)
    assert p < 1e-4 and low < np.log(1.03) < high and abs(centre - np.log(1.03)) < 0.01
    assert compare.log_ratio(old, new + np.log(1.03))[3] < 1e-3


def test_the_trimmed_mean_is_yuens() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_t(3, size=14), 0.4 + rng.standard_t(3, size=21)
    theirs = stats.ttest_ind(y, x, equal_var=False, trim=compare.TRIMMED)
    assert compare.log_ratio(x, y)[3] == pytest.approx(theirs.pvalue)
    plain = stats.ttest_ind(y[:9], x[:8], equal_var=False)
    assert compare.log_ratio(x[:8], y[:9])[3] == pytest.approx(plain.pvalue), "few: none is trimmed"


def test_cases_on_one_side_only_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = run(tmp_path, "old", kernels=["flash", "naive"], sizes=[128, 256])
    new = run(tmp_path, "later", kernels=["flash", "local_window"], sizes=[128])
    assert command(str(old), str(new)) == 0
    out = capsys.readouterr().out
    assert "only in OLD: naive keys=128,256 head_dim=64 (2 cases, ok)" in out
    assert "only in OLD: flash keys=256" in out and "only in NEW: local_window" in out


def test_a_case_that_breaks_is_a_regression(tmp_path: Path) -> None:
    old = run(tmp_path, "old", kernels=["flash"], sizes=[128])
    broken = [record("flash", 128, 64, r, status="failed", reason="signal 4") for r in range(6)]
    assert command(str(old), str(write_run(tmp_path / "new", broken))) == 1


def test_different_machines_are_refused_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ENVIRONMENT | {"cpu": {"model": "Other CPU 1", "allowed": [0, 1]}}
    old, new = run(tmp_path, "old"), run(tmp_path, "later", other)
    assert command(str(old), str(new)) == 2
    assert "different machines" in capsys.readouterr().err
    assert command(str(old), str(new), "--different-machines") == 0


def test_json_and_markdown_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write_run(tmp_path / "old", with_gaps(sweep()))
    new = run(tmp_path, "later")
    assert command(str(old), str(new), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["cases"]) == 20 and len(found["only_old"]) == 5 and not found["regressed"]
    assert command(str(old), str(new), "--markdown") == 0
    assert capsys.readouterr().out.startswith("| verdict | kernel |")


def test_a_missing_run_is_one_line_and_status_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(str(tmp_path / "none"), str(tmp_path)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_holm_is_the_textbook_correction() -> None:
    corrected = compare.holm(np.array([0.01, 0.04, np.nan, 0.03]))
    assert corrected[[0, 1, 3]] == pytest.approx([0.03, 0.06, 0.06]) and np.isnan(corrected[2])


def test_history_marks_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, factor in enumerate((1.0, 1.0, 1.3)):
        run(tmp_path / "results", f"run{i}", slower=lambda k, n, f=factor: f if k == "flash" else 1.0,
            started=f"2026-01-0{i + 1}T00:00:00Z", sizes=[128, 256], seed=i)  # fmt: skip
    parser = argparse.ArgumentParser()
    history.add_arguments(parser)
    assert history.main(parser.parse_args([str(tmp_path / "results")])) == 0
    read = history.read(tmp_path / "results")
    steps = read.steps
    words = [text.get_text() for text in history.draw(read).figure.findobj(Text)]
    assert any("Example CPU 9000" in word and "commit 012345678" in word for word in words)
    assert set(steps["label"]) == {"flash"} and set(steps["verdict"]) == {"SLOWER"}
    assert set(steps["run_index"]) == {2}
    assert "3 runs" in capsys.readouterr().out
    assert (tmp_path / "results" / "history.pdf").exists()
