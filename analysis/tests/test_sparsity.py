# SPDX-License-Identifier: Apache-2.0
"""What sparse patterns keep: budgets, measures, controls and the frontier, on cases one can check."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

pytest.importorskip("attnbench._core")

import attnbench
from attnbench import sparsity, tensors
from attnbench.sparsity import CONTROLS
from attnbench.studies import _pareto_measures as measures
from attnbench.studies import pareto

N = 64


@pytest.fixture(scope="module")
def heads() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, k, v: three heads of 64 tokens, peaked enough that masks differ."""
    random = np.random.default_rng(3)
    q, k, v = random.standard_normal((3, 3, N, 16))
    return 2 * q, k, v


def weights_of(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    return tensors.reader("minilm").attention_weights(q, k)


def test_patterns_of_a_budget_admit_as_many_keys():
    for budget in (16, 24, 40):
        found = sparsity.at_budget(N, budget)
        assert "local" in found and "sinks + local" in found
        for name, pattern in found.items():
            assert abs(pattern.keys - budget) <= sparsity.NEAR * budget, name
            assert pattern.admitted.sum() == pytest.approx(pattern.keys * N)
    # Blocks of l and the last keys of all others cannot be fewer than about 2 sqrt(n).
    assert "fixed" not in sparsity.at_budget(512, 32) and "fixed" in sparsity.at_budget(512, 64)


def test_a_dilated_window_skips_every_second_key():
    row = sparsity.dilated(9, 2)[4]
    assert np.flatnonzero(row).tolist() == [0, 2, 4, 6, 8]
    assert np.flatnonzero(sparsity.dilated(9, 1)[0]).tolist() == [0, 2]


def test_the_full_mask_loses_nothing_and_recall_is_the_mass_that_is_admitted(heads):
    q, k, v = heads
    weights = weights_of(q, k)
    whole = sparsity.kept(weights, v, np.ones((N, N), bool))
    np.testing.assert_allclose(whole.recall, 1)
    np.testing.assert_allclose(whole.cosine_p5, 1)
    np.testing.assert_allclose(whole.error_p95, 0, atol=1e-12)
    half = np.arange(N) < N // 2
    found = sparsity.kept(weights, v, half)
    np.testing.assert_allclose(found.recall, weights[:, :, half].sum(2).mean(1))
    assert (found.recall_p5 < found.recall).all() and (found.error_p95 > found.error).all()
    again = sparsity.kept(weights, v, half, weights @ v)
    np.testing.assert_array_equal(found.error, again.error)


def test_errors_are_what_the_words_say():
    weights = np.full((1, 2, 2), 0.5)
    v = np.array([[[2.0, 0], [0, 2]]])
    found = sparsity.kept(weights, v, np.array([[True, False], [True, True]]))
    # Row 0 sees key 0 alone: (2, 0) in place of (1, 1); row 1 is exact.
    assert found.error[0] == pytest.approx(0.5)  # sqrt(2) / sqrt(2), and 0
    assert found.cosine[0] == pytest.approx((np.sqrt(0.5) + 1) / 2)
    assert found.greatest[0] == pytest.approx(0.5)
    assert found.recall[0] == pytest.approx(0.75)
    nothing = sparsity.kept(weights, v, np.zeros((2, 2), bool))
    assert nothing.recall[0] == 0 and nothing.error[0] == 1 and nothing.cosine[0] == 0


def test_no_mask_of_as_many_keys_keeps_more_than_the_best_keys(heads):
    q, k, v = heads
    weights = weights_of(q, k)
    masks = {name: sparsity.control(name, weights, 10) for name in CONTROLS}
    for mask in masks.values():
        assert (mask.sum(-1) == 10).all()
    best, columns, random = (sparsity.kept(weights, v, masks[name]).recall for name in CONTROLS)
    assert (best > columns).all() and (columns > random).all()
    np.testing.assert_allclose(best, np.sort(weights, -1)[..., -10:].sum(-1).mean(-1))
    assert (masks["best columns"] == masks["best columns"][:, :1]).all()  # the same for all rows
    np.testing.assert_allclose(random, 10 / N, atol=0.05)


def test_kernels_compute_what_their_masks_say(heads):
    q, k, v = (x.astype(np.float32) for x in heads)
    weights = weights_of(*(x.astype(np.float64) for x in (q, k)))
    for name, pattern in sparsity.at_budget(N, 16).items():
        if pattern.mask is None:
            continue
        out = attnbench.attention(q, k, v, kernel=pattern.kernel, **pattern.mask)
        expected, _ = sparsity.attend(weights, v.astype(np.float64), pattern.admitted)
        np.testing.assert_allclose(out, expected, atol=2e-5, err_msg=name)


def test_the_shape_of_a_head_is_recovered():
    n, exponent = 256, 0.8
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    weights = np.maximum(apart, 0.5) ** -exponent
    # q = sqrt(n) I makes the logits of k = logits^T: any weights can be had.
    q = np.eye(n)[None] * np.sqrt(n)
    found = sparsity.shape(q, np.log(weights)[None])
    assert found.locality[0] == pytest.approx(exponent, abs=0.05)
    even = sparsity.shape(q, np.zeros((1, n, n)))
    assert even.entropy[0] == pytest.approx(np.log(n)) and even.locality[0] == pytest.approx(0)
    assert even.first_key[0] == pytest.approx(1 / n) and even.sinks[0] == pytest.approx(4 / n)
    assert even.logit_deviation[0] == 0
    assert even.local[0] == pytest.approx((apart <= 32).mean())


def test_the_frontier_holds_what_nothing_beats():
    cost, loss = [1, 2, 2, 3, 4, 1], [0.9, 0.5, 0.6, 0.5, 0.1, 0.9]
    assert sparsity.frontier(cost, loss).tolist() == [True, True, False, False, True, True]


def test_masks_are_told_apart_and_swept_by_their_kernels():
    patterns = list(sparsity.at_budget(N, 24).values())
    spec = tomllib.loads(measures.experiment(patterns, 5))
    masks = [entry["mask"] for entry in spec["kernel"][1:]]
    served = [p.mask for p in patterns if p.mask is not None]
    assert masks == served and len(served) == len(patterns) - 1  # dilated has no kernel
    assert len({measures.identity(mask) for mask in [{}, *masks]}) == len(masks) + 1
    assert measures.identity({"pattern": "full", "sinks": 0}) == measures.identity({})


def test_recalls_pair_the_patterns_of_a_head_and_the_largest_wins():
    sizes = (1, 2, N, 16)
    random = np.random.default_rng(0)
    layer = tensors.reader("minilm").Layer
    layers = [
        layer(*(random.standard_normal(sizes, np.float32) for _ in range(3)), np.empty(0))
        for _ in range(2)
    ]
    frame = measures.measure(layers, (16, 24))
    table = pareto.recalls(frame, 24)
    assert table.shape == (4, len(sparsity.at_budget(N, 24)) + len(CONTROLS))
    row = frame[(frame.budget == 24) & (frame.pattern == "local")]
    np.testing.assert_array_equal(table["local"], row["recall"])
    assert list(zip(row["layer"], row["head"])) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert sum(pareto.winners(table).values()) == pytest.approx(1)
    cost = {
        measures.identity({}): 9.0,
        measures.identity(measures.contestants(24, N)["local"].mask): 4.0,
    }
    points = measures.points(frame, cost, N).set_index(["pattern", "budget"])["time_ns"]
    assert points["local", 24] == 4 and points["dense", N] == 9
    assert np.isnan(points["dilated", 24]) and np.isnan(points["best keys", 24])


@pytest.mark.weights
def test_the_model_with_its_own_attention_swapped_in_is_itself():
    try:
        model = tensors.load_model("minilm")
    except ValueError as error:
        pytest.skip(str(error))
    ids, _, _ = model.tokenizer.encode("The animal did not cross the street.")
    *_, own = model.forward(ids)
    *_, same = model.forward(ids, attend=lambda x: attnbench.attention(x.q, x.k, x.v))
    np.testing.assert_allclose(same, own, atol=1e-4)
    *_, none = model.forward(ids, attend=lambda x: np.zeros_like(x.v))
    assert np.abs(none - own).max() > 0.1
