# SPDX-License-Identifier: Apache-2.0
"""Study ring: the model's constants are found, and its counts are right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("attnbench._core")

from attnbench.studies import ring


def ring_table(model: ring.Model) -> pd.DataFrame:
    """Runs as the model says, without overlap."""
    rows = []
    for n in (512, 1024, 2048):
        for ranks in (1, 2):
            for causal in (False, True):
                s = ring.Shape(n, 4, 64, causal)
                rows.append({
                    "kernel": "ring", "n": n, "ranks": ranks, "heads": 4, "width": 64,
                    "causal": causal, "overlap": True, "zigzag": True,
                    "compute": model.compute(s, ranks), "merge": model.merge(s, ranks),
                    "seconds": model.total(s, ranks, overlap=False),
                })  # fmt: skip
    return pd.DataFrame(rows)


def test_study_ring_finds_the_constants_of_a_machine_that_follows_its_model():
    truth = ring.Model(2e-9, 3e-7, 5e-8, 4e-8, 1e-10, 1e-6, 1e10)
    table = ring_table(truth)
    found = ring.fit(table, truth.latency_s, truth.bytes_per_s)
    for name, value in vars(truth).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6), name
    assert all(abs(e) < 1e-6 for part in ring.errors(table, found).values() for e in part)
    far = ring.Shape(10**6, 4, 64, True)
    assert truth.total(far, 64, overlap=True) < truth.total(far, 64, overlap=False)
    assert truth.total(far, 1, overlap=True) == truth.total(far, 1, overlap=False)


def test_study_ring_counts_the_partial_results_of_a_row():
    for ranks in (2, 3, 8):
        runs = 2 * ranks  # a causal sequence in zigzag: rows of run i meet runs 0 ... i
        counted = np.mean([i + 1 for i in range(runs)])
        assert ring.Shape(1024, 1, 8, True).partials(ranks) == counted
    assert ring.Shape(1024, 1, 8, False).partials(3) == 3
    assert ring.Shape(1024, 1, 8, True).partials(1) == 1
