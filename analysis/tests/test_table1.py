# SPDX-License-Identifier: Apache-2.0
"""Study table1: paths, crossings and exponents are those of the counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("attnbench._core")

from attnbench.studies import table1


@pytest.mark.parametrize("name", table1.PATHS)
def test_paths_by_search_and_through_layers_are_the_tables(name):
    mask, expected = table1.PATHS[name]
    assert table1.path_by_search(table1.LENGTH, **mask) == expected
    assert table1.path_by_perturbation(table1.LENGTH, **mask) == expected


def test_curves_cross_where_their_logarithms_do():
    sizes = np.array([1.0, 2, 4, 8])
    assert table1.crossing(sizes, sizes**2, 3 * sizes) == pytest.approx(3)
    assert table1.crossing(sizes, sizes**2, sizes / 2) == 0
    assert table1.crossing(sizes, sizes**2, 100 * sizes) == np.inf


def layers(**columns) -> pd.DataFrame:
    """Attention of 8 n d^2 + 4 n^2 d operations and an LSTM of 16 n d^2; time is a tenth."""
    rows = []
    for d in (64, 256):
        for n in 2.0 ** np.arange(6, 14):
            for layer, flops in (
                ("self-attention", 8 * n * d**2 + 4 * n**2 * d),
                ("lstm", 16 * n * d**2),
            ):
                time = flops / 10 * (2 if layer == "lstm" else 1)
                rows.append({"layer": layer, "keys": n, "d_model": d, "useful_flops": flops,
                             "median_ns": time, "threads": 1})  # fmt: skip
    return pd.DataFrame(rows)


def test_crossovers_and_exponents_follow_the_counts():
    found = table1.crossovers(layers())
    assert found["lstm, d = 64"]["count"] == pytest.approx(128, rel=0.05)
    assert found["lstm, d = 64"]["time"] == pytest.approx(6 * 64, rel=0.05)  # twice as slow
    assert found["lstm, d = 256"]["count"] == pytest.approx(512, rel=0.05)
    grown = table1.exponents(layers(), "keys", 8)
    assert grown["lstm, d = 64"]["time"] == pytest.approx(1, abs=0.01)
    assert 1.7 < grown["self-attention, d = 64"]["count"] <= 2.01
    assert table1.exponents(layers(), "d_model", 8) == {}  # two widths give no exponent


def test_the_layers_of_the_table_are_told_apart():
    def name(kernel: str, pattern: str) -> str:
        return table1.layer_name(pd.Series({"kernel": kernel, "pattern": pattern}))

    assert name("self_attention", "full") == "self-attention"
    assert name("self_attention", "local") == "restricted"
    assert name("lstm", "full") == "lstm"
