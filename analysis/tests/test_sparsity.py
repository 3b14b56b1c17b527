# SPDX-License-Identifier: Apache-2.0
"""What sparse patterns keep: budgets, measures, controls and the frontier, on cases one can check."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

pytest.importorskip("attnbench._core")

import attnbench
from attnbench import calibrate, sparsity, tensors, transformer
from attnbench.sparsity import CHOSEN, CONTROLS
from attnbench.studies import _pareto_measures as measures
from attnbench.studies import _pareto_models as models
from attnbench.studies import _pareto_pictures

N = 64


@pytest.fixture(scope="module")
def heads() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, k, v: three heads of 64 tokens, peaked enough that masks differ."""
    random = np.random.default_rng(3)
    q, k, v = random.standard_normal((3, 3, N, 16))
    return 2 * q, k, v


def weights_of(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    return transformer.attention_weights(q, k)


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
    pattern = sparsity.at_budget(N, 16)["dilated"]
    window = pattern.mask["band"]
    row = np.flatnonzero(pattern.admitted[N // 2])
    assert row.tolist() == list(range(N // 2 - 2 * window, N // 2 + 2 * window + 1, 2))


def test_global_tokens_see_all_and_are_seen_by_all():
    pattern = sparsity.at_budget(N, 16)["global + local"]
    assert pattern.admitted[: sparsity.SINKS].all() and pattern.admitted[:, : sparsity.SINKS].all()
    inner = pattern.admitted[N // 2, sparsity.SINKS :].sum()
    assert inner == 2 * pattern.mask["band"] + 1


def test_causal_patterns_of_a_budget_admit_no_later_key():
    found = sparsity.at_budget(N, 16, causal=True)
    assert {"local", "sinks + local", "BigBird", "dilated"} <= found.keys()
    for name, pattern in found.items():
        assert not np.triu(pattern.admitted, 1).any(), name
        assert abs(pattern.keys - 16) <= sparsity.NEAR * 16, name


def test_chosen_blocks_are_the_first_the_own_and_those_with_the_nearest_keys():
    block, n = sparsity.BLOCK, 6 * sparsity.BLOCK
    q = np.zeros((1, n, 8), np.float32)
    k = np.zeros((1, n, 8), np.float32)
    q[0, :, 0] = 4
    k[0, 2 * block : 3 * block, 0] = 4
    chosen = sparsity.chosen_blocks(q, k, 3 * block)[0]
    row = chosen.reshape(6, block, 6, block).all((1, 3))
    assert np.flatnonzero(row[4]).tolist() == [0, 2, 4]
    assert (chosen.sum(1) <= 3 * block).all()
    assert not np.triu(sparsity.chosen_blocks(q, k, 3 * block, causal=True)[0], 1).any()


def test_blocks_are_chosen_only_where_as_many_keys_are_blocks():
    n = 6 * sparsity.BLOCK
    q, k = np.random.default_rng(0).standard_normal((2, 1, n, 8), np.float32)
    for causal in (False, True):
        for keys in (16, 24, 32, 48, 64):
            admitted = sparsity.chosen_blocks(q, k, keys, causal)[0].sum(1).mean()
            assert admitted == pytest.approx(sparsity.chosen_keys(n, keys, causal)), (keys, causal)
    assert CHOSEN in measures.contestants(32, n) and CHOSEN not in measures.contestants(16, n)
    assert CHOSEN in measures.contestants(24, n, causal=True)
    assert CHOSEN not in measures.contestants(16, n, causal=True)


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
    assert found.entropy[0] == pytest.approx(np.log(2) / 2)  # of one key and of two
    nothing = sparsity.kept(weights, v, np.zeros((2, 2), bool))
    assert nothing.recall[0] == 0 and nothing.error[0] == 1 and nothing.cosine[0] == 0
    assert nothing.entropy[0] == 0


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
        out = attnbench.attention(q, k, v, kernel=pattern.kernel, **pattern.arguments)
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
    spec = tomllib.loads(measures.experiment(patterns, [24, 48], 5))
    masks = [entry["mask"] for entry in spec["kernel"][1:-2]]
    assert masks == [p.mask for p in patterns]
    assert [entry["options"]["blocks"] for entry in spec["kernel"][-2:]] == [2, 3]
    assert len({measures.identity(mask) for mask in [{}, *masks]}) == len(masks) + 1
    assert measures.identity({"pattern": "full", "sinks": 0}) == measures.identity({})


def test_a_causal_model_is_swept_with_causal_masks_throughout():
    patterns = list(sparsity.at_budget(N, 24, causal=True).values())
    size = measures.Size(N, 2, 16, causal=True)
    spec = tomllib.loads(measures.experiment(patterns, [24], 5, size))
    assert spec["axes"]["keys"] == N and spec["axes"]["heads"] == 2
    assert all(entry["mask"]["causal"] for entry in spec["kernel"])
    assert spec["kernel"][-1]["name"] == "top_blocks" and spec["kernel"][-1]["heads"] == 1


def test_layers_of_a_model_are_drawn_with_what_they_cost():
    drawn = np.random.default_rng(0).standard_normal((2, 3, 1, 2, N, 16), np.float32)
    layers = [transformer.Layer(q, k, v, np.empty(0)) for q, k, v in drawn]
    frame = measures.measure(layers, (16,), causal=True)
    cost = {
        measures.identity(p.mask): measures.Spent(float(3 + i))
        for i, p in enumerate(sparsity.at_budget(N, 16, causal=True).values())
    }
    cost[measures.identity({})] = measures.Spent(9.0)
    table = measures.points(frame, cost, N, causal=True)
    assert table.iloc[-1]["keys"] == (N + 1) / 2  # of dense attention
    size = measures.Size(N, 2, 16, causal=True)
    picture = _pareto_pictures.other("one", models.Other("One", size, frame, table))
    axes = picture.figure.axes
    assert picture.name == "layers_one"
    assert [at.get_title("left") for at in axes] == ["layer 0", "layer 1"]
    assert all(len(at.lines) == len(cost) + 1 for at in axes)  # and the frontier


def test_recalls_pair_the_patterns_of_a_head_and_the_largest_wins():
    drawn = np.random.default_rng(0).standard_normal((2, 3, 1, 2, N, 16), np.float32)
    layers = [transformer.Layer(q, k, v, np.empty(0)) for q, k, v in drawn]
    frame = measures.measure(layers, (16, 32))
    table = measures.recalls(frame, 32)
    assert table.shape == (4, len(sparsity.at_budget(N, 32)) + 1 + len(CONTROLS))
    row = frame[(frame.budget == 32) & (frame.pattern == "local")]
    np.testing.assert_array_equal(table["local"], row["recall"])
    assert list(zip(row["layer"], row["head"])) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert sum(measures.winners(table).values()) == pytest.approx(1)
    cost = {
        measures.identity({}): measures.Spent(9.0),
        measures.identity(measures.contestants(32, N)["local"].mask): measures.Spent(
            4.0, plan_ns=1.0
        ),
        measures.identity({"blocks": sparsity.block_options(32)["blocks"]}): measures.Spent(
            5.0, 2.0
        ),
    }
    points = measures.points(frame, cost, N).set_index(["pattern", "budget"])
    times = points["time_ns"]
    assert times["local", 32] == 4 and times["dense", N] == 9 and times[CHOSEN, 32] == 5
    assert points["choice_ns"][CHOSEN, 32] == 2 and points["plan_ns"]["local", 32] == 1
    assert np.isnan(times["dilated", 32]) and np.isnan(times["best keys", 32])


def test_a_fit_finds_the_parameters_of_generated_heads():
    wanted = calibrate.generate(128, 16, (1.5, 0.8, 3.0), seed=3)
    found = calibrate.generate(128, 16, calibrate.fit(wanted, 128, 16), seed=4)
    np.testing.assert_allclose(tuple(found), tuple(wanted), atol=0.25)
    flat = calibrate.generate(128, 16, (0, 0, 0))
    assert flat.entropy == pytest.approx(np.log(128)) and flat.first_key == pytest.approx(1 / 128)


def test_generated_lengths_have_every_pattern_on_both_kinds_of_heads():
    found = models.by_length((128,), 32).set_index(["source", "pattern"])["recall"]
    blind, seen = found["Gaussian"], found["calibrated"]
    assert set(blind.index) == set(seen.index) >= {"local", "BigBird", CHOSEN, *CONTROLS}
    assert blind["local"] == pytest.approx(32 / 128, abs=0.05)
    assert seen["best keys"] > seen["sinks + local"] > blind["sinks + local"]


@pytest.mark.weights
def test_a_causal_model_without_its_keys_foretells_worse():
    text = (tensors.ROOT / "experiments" / "text" / "antibodies.txt").read_text()
    try:
        table = models.antibodies(text.splitlines()[:1]).set_index("pattern")
    except ValueError as error:
        pytest.skip(str(error))
    assert table["accuracy"]["dense"] > 0.6 and 1 < table["perplexity"]["dense"] < 4
    assert table["perplexity"]["best keys"] < table["perplexity"]["random keys"]


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
