# SPDX-License-Identifier: Apache-2.0
"""The studies of trust measure what they say: on made-up rounds their shares are the known ones."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from attnbench import studies


@pytest.fixture(scope="module")
def comparing() -> ModuleType:
    return studies.module("comparing")


def rounds(comparing: ModuleType, noise: float, drift: float = 0.0):  # type: ignore[no-untyped-def]
    """Four cases, six sessions of twelve rounds; `drift` of a session, which its ceilings see."""
    rng = np.random.default_rng(3)
    mood = drift * rng.normal(size=(1, 6, 1, 1))
    log_ns = 14 + mood + noise * rng.normal(size=(4, 6, 12, 2))
    ceilings = np.broadcast_to(4.6 - mood[..., 0], (4, 6, 2))
    kernels = np.array(["naive", "flash", "flash", "local_window"])
    slowed = np.zeros((4, 6, 2), dtype=bool)
    return comparing.Rounds(list("abcd"), kernels, log_ns, ceilings, slowed)


def test_quiet_rounds_find_every_slowdown_and_raise_no_alarm(comparing: ModuleType) -> None:
    found = comparing.rates(rounds(comparing, 0.005), comparing.interleaved, 12, 100, 1)
    assert found["found"]["1.05"][0] == 1 and found["alarms"][0] <= 0.05
    assert found["regressions"][0] <= found["alarms"][0]


def test_noisy_rounds_find_little_and_still_raise_no_alarm(comparing: ModuleType) -> None:
    found = comparing.rates(rounds(comparing, 0.2), comparing.interleaved, 12, 100, 1)
    assert found["found"]["1.05"][0] < 0.3 and found["alarms"][0] <= 0.1


def test_drift_between_sessions_raises_no_alarm_and_hides_what_is_smaller(
    comparing: ModuleType,
) -> None:
    data = rounds(comparing, 0.005, drift=0.1)
    found = comparing.rates(data, comparing.stored, 12, 100, 1)
    assert found["alarms"][0] <= 0.1
    sharp = comparing.rates(data, comparing.interleaved, 12, 100, 1)
    assert found["found"]["1.05"][0] < sharp["found"]["1.05"][0]


def test_what_the_machine_was_slowed_for_raises_no_alarm(comparing: ModuleType) -> None:
    data = rounds(comparing, 0.005)
    data.log_ns[0, :3] += 2  # half of the sessions beside other work, which hits one case hardest
    told = comparing.rates(data, comparing.stored, 12, 100, 1)
    data.slowed[:, :3] = True
    assert (
        told["alarms"][0] > 0.3
        and comparing.rates(data, comparing.stored, 12, 100, 1)["alarms"][0] <= 0.05
    )


def test_shares_carry_the_exact_interval(comparing: ModuleType) -> None:
    assert comparing.share(0, 200) == pytest.approx((0, 0, 0.0183), abs=1e-4)
    assert comparing.share(10, 200) == pytest.approx((0.05, 0.0242, 0.0900), abs=1e-4)


def test_coverage_of_an_interval_that_is_too_narrow_would_be_seen() -> None:
    coverage = studies.module("coverage")
    assert coverage.covered(lambda rng, _: rng.random() < 0.5, 200, 1) < coverage.WANTED[0]
    law = next(iter(coverage.LAWS.values()))
    assert coverage.draw(np.random.default_rng(1), *law).shape == (law[3], law[5])


def test_the_ratio_of_two_processes_comes_with_its_interval() -> None:
    hosts = studies.module("hosts")
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        middle, low, high = hosts.interval(1.02 * np.exp(0.05 * rng.normal(size=12)))
        assert low < middle < high
        held += low <= 1.02 <= high
    assert 180 <= held <= 199
