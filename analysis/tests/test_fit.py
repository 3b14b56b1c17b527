# SPDX-License-Identifier: Apache-2.0
"""The exponents are those of published figures, and the intervals hold what they promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import sweep, with_gaps, write_run

from attnbench import fit, records

PUBLISHED = Path(__file__).parent / "data" / "flashattention_forward.csv"


def published(column: str) -> tuple[np.ndarray, np.ndarray]:
    table = pd.read_csv(PUBLISHED, comment="#")[["n", column]].dropna()
    return table["n"].to_numpy(), table[column].to_numpy()


@pytest.mark.parametrize(
    ("column", "line", "power"),
    [("pytorch_ms", 1.46, 2.01), ("flash_ms", 1.74, 1.99), ("local_ms", 1.03, 1.20)],
)
def test_published_times_give_the_known_exponents(column: str, line: float, power: float) -> None:
    n, time_ms = published(column)
    assert fit.loglog_exponent(n, time_ms) == pytest.approx(line, abs=0.006)
    assert fit.fit_power(n, time_ms)[2] == pytest.approx(power, abs=0.006)


def test_the_constant_of_the_published_dense_times_is_the_launch_cost() -> None:
    assert fit.fit_power(*published("pytorch_ms"))[0] == pytest.approx(0.18, abs=0.005)


@pytest.mark.parametrize(("column", "line"), [("pytorch_mb", 1.78), ("flash_mb_listed", 1.02)])
def test_published_memory_gives_the_known_exponents(column: str, line: float) -> None:
    assert fit.loglog_exponent(*published(column)) == pytest.approx(line, abs=0.01)


def test_local_slopes_show_where_the_growth_settles() -> None:
    slopes = fit.local_slopes(*published("pytorch_ms"))
    assert np.round(slopes, 2) == pytest.approx([0.07, 0.97, 1.56, 1.77, 1.93, 2.04])
    assert fit.local_slopes(*published("pytorch_mb"))[-1] == pytest.approx(1.95, abs=0.005)
    assert fit.local_slopes(*published("local_ms"))[-1] == pytest.approx(1.01, abs=0.02)


@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_exact_data_give_the_exact_exponent(p: float, offset: float) -> None:
    n = 128.0 * 2.0 ** np.arange(9)
    assert fit.fit_power(n, offset + 3 * n**p)[2] == pytest.approx(p, abs=1e-3)


@pytest.mark.parametrize(
    ("offset", "scale", "p", "rounds", "drift", "off", "sizes"),
    [(2e4, 1, 2, 6, 0, 0, 9), (2e4, 1, 2, 6, 0.05, 0, 9), (0, 1, 2, 6, 0, 0, 9),
     (1e4, 3, 1.5, 8, 0, 0, 9), (0, 9, 1, 3, 0, 0, 9), (5e4, 1, 2, 12, 0.02, 0, 9),
     (2e4, 1, 2, 6, 0, 0.05, 9), (2e4, 1, 2, 6, 0, 0.05, 5)],
)  # fmt: skip
def test_the_interval_covers_the_true_exponent(
    offset: float, scale: float, p: float, rounds: int, drift: float, off: float, sizes: int
) -> None:
    """200 trials: 3 % noise a size and round, `drift` common to all sizes of a round, `off` to all
    rounds of a size."""
    rng = np.random.default_rng(11)
    n = 64.0 * 2.0 ** np.arange(sizes)
    covered = 0
    for trial in range(200):
        noise = 0.03 * rng.normal(size=(rounds, sizes)) + drift * rng.normal(size=(rounds, 1))
        noise += off * rng.normal(size=sizes)
        found = fit.fit_rounds(n, (offset + scale * n**p) * np.exp(noise), 150, trial)
        covered += found.low <= p <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_noise_that_sits_at_one_size_widens_the_interval() -> None:
    """The medians lie on the law all the same."""
    n = 128.0 * 2.0 ** np.arange(8)
    values = np.tile(n**2, (5, 1))
    values[:, -1] *= [0.8, 0.9, 1.0, 1.1, 1.2]
    found = fit.fit_rounds(n, values)
    assert found.exponent == pytest.approx(2, abs=1e-3)
    assert found.high - found.low > 0.05


def test_fewer_than_eight_sizes_are_provisional_and_fewer_than_four_no_fit() -> None:
    n = 128.0 * 2.0 ** np.arange(8)
    assert not fit.fit_rounds(n, [n**2]).provisional
    assert fit.fit_rounds(n[:7], [n[:7] ** 2]).provisional
    with pytest.raises(ValueError, match="sizes"):
        fit.fit_rounds(n[:3], [n[:3] ** 2])


def test_rounds_that_a_size_lacks_are_no_obstacle() -> None:
    n = 128.0 * 2.0 ** np.arange(8)
    values = np.tile(n**2, (4, 1))
    values[1:, -1] = np.nan
    assert fit.fit_rounds(n, values).exponent == pytest.approx(2, abs=1e-3)


def test_two_curves_cross_where_they_should() -> None:
    rng = np.random.default_rng(2)
    n = 64.0 * 2.0 ** np.arange(8)
    dense, local = n**2, 1e3 * n  # cross at 1000
    fits = [fit.fit_rounds(n, y * np.exp(0.02 * rng.normal(size=(6, 8)))) for y in (dense, local)]
    found = fit.crossover(*fits)
    assert found is not None and found["low"] <= 1000 <= found["high"]
    assert found["n"] == pytest.approx(1000, rel=0.1) and not found["extrapolated"]
    faster = fit.fit_rounds(n, np.tile(0.5 * n**2, (6, 1)))
    assert fit.crossover(fits[0], faster) is None


def test_curves_that_lie_off_their_laws_cross_somewhere_near() -> None:
    """Every round alike: no noise tells of it, the interval does."""
    n = 64.0 * 2.0 ** np.arange(8)
    off = 1 + 0.1 * (-1.0) ** np.arange(8)
    fits = [fit.fit_rounds(n, np.tile(y, (6, 1))) for y in (n**2 * off, 1e3 * n / off)]
    found = fit.crossover(*fits)
    assert found is not None and found["low"] < 900 and found["high"] > 1100


def test_a_budget_gives_the_largest_n() -> None:
    n = 64.0 * 2.0 ** np.arange(8)
    found = fit.fit_rounds(n, np.tile(5 + n**2, (6, 1)))
    largest, low, high = found.largest_n(1e8)
    assert largest == pytest.approx(1e4, rel=0.01) and low <= largest <= high
    assert found.largest_n(1.0)[0] == 0


def test_the_physical_view_finds_both_terms() -> None:
    n, d = (x.ravel() for x in np.meshgrid(64.0 * 2.0 ** np.arange(6), [32.0, 64, 128]))
    assert fit.fit_shape(n, d, 100 + 2 * n * d**2 + 3 * n**2 * d) == pytest.approx((100, 2, 3))


def test_a_sweep_gives_a_fit_of_time_and_memory_a_series(tmp_path: Path) -> None:
    lines = with_gaps(sweep(sizes=[2**k for k in range(7, 15)], head_dims=(32, 64)))
    frame = records.load(write_run(tmp_path / "run", lines))
    summary = records.summarise(frame)
    for quantity, dense in (("time", 2.0), ("memory", 2.0)):
        table, fits = fit.fit_summary(frame, summary, quantity)
        assert table.attrs["over"] == "keys" and len(table) == len(fits) == 8
        by_kernel = table[table["head_dim"] == 64].set_index("kernel")
        assert by_kernel.loc["naive", "exponent"] == pytest.approx(dense, abs=0.05)
        assert by_kernel.loc["local_window", "exponent"] == pytest.approx(1.0, abs=0.05)
        assert not table["provisional"].any()


def test_a_series_too_short_for_a_fit_says_so(tmp_path: Path) -> None:
    frame = records.load(write_run(tmp_path / "run", sweep(sizes=[128, 256])))
    table, fits = fit.fit_summary(frame, records.summarise(frame))
    assert fits == [None] * 4
    assert table["note"].str.contains("too few").all() and table["last_slope"].notna().all()


def test_a_step_at_the_last_size_is_no_exponent(tmp_path: Path) -> None:
    lines = sweep(sizes=[2**k for k in range(7, 12)])
    for line in lines:  # as a buffer that only large problems need
        line["peak_rss_bytes"] = 300e3 if line["problem"]["keys"] < 2048 else 700e3
    frame = records.load(write_run(tmp_path / "run", lines))
    table, fits = fit.fit_summary(frame, records.summarise(frame), "memory")
    assert table["exponent"].isna().all() and fits == [None] * 4
    assert (table["note"] == fit.NO_POWER).all()


def test_an_exponent_that_could_be_anything_is_undetermined(tmp_path: Path) -> None:
    lines = sweep(sizes=[2**k for k in range(7, 12)])
    bytes_of = dict(zip((128, 256, 512, 1024, 2048), (300e3, 340e3, 320e3, 420e3, 615e3)))
    for line in lines:
        line["peak_rss_bytes"] = bytes_of[line["problem"]["keys"]]
    frame = records.load(write_run(tmp_path / "run", lines))
    table, fits = fit.fit_summary(frame, records.summarise(frame), "memory")
    assert table["exponent"].isna().all() and fits == [None] * 4
    assert table["note"].str.startswith("undetermined: [").all()
