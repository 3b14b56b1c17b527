# SPDX-License-Identifier: Apache-2.0
"""The mathematics of the studies of attention itself: what each measures, on what is known."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("attnbench._core")

from attnbench import studies, tensors
from attnbench.studies import collapse, explanations, order, self_luong, words

# --- order -----------------------------------------------------------------------------------------


def test_sinusoids_start_at_zero_and_one_and_have_the_papers_wavelengths():
    table = order.sinusoidal(700, 4)
    np.testing.assert_array_equal(table[0], [0, 1, 0, 1])
    np.testing.assert_allclose(table[:, 0], np.sin(np.arange(700)), atol=1e-6)
    np.testing.assert_allclose(table[:, 3], np.cos(np.arange(700) / 100), atol=1e-6)


def test_rotary_products_depend_on_the_distance_alone():
    random = np.random.default_rng(1)
    q, k = (np.tile(random.standard_normal(8).astype(np.float32), (10, 1)) for _ in range(2))
    products = order.rotary(q) @ order.rotary(k).T
    for distance in range(-9, 10):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert abs(products[0, 3] - products[3, 0]) > 1e-3  # and it knows before from after
    np.testing.assert_allclose(np.linalg.norm(order.rotary(q), axis=1), np.linalg.norm(q, axis=1),
                               rtol=1e-6)  # fmt: skip


def test_alibi_falls_with_distance_by_each_heads_slope():
    bias = order.alibi(5, 2)
    np.testing.assert_allclose(bias[0, 4], [-0.25, -0.1875, -0.125, -0.0625, 0])
    np.testing.assert_array_equal(bias, np.swapaxes(bias, 1, 2))
    assert (bias[1] >= bias[0]).all()


def test_a_break_is_measured_where_there_is_one():
    x = np.random.default_rng(2).standard_normal((6, 3))
    backwards = np.arange(6)[::-1]
    assert order.broken(lambda a: a * 2, x, backwards) == 0
    assert order.broken(lambda a: a + np.arange(6)[:, None], x, backwards) > 0.5


# --- words -----------------------------------------------------------------------------------------


def test_distances_are_one_less_cosine():
    table = words.distances(np.array([[1.0, 0], [2, 0], [0, 3], [-1, 0]]))
    np.testing.assert_allclose(table[0], [0, 0, 1, 2], atol=1e-12)


def test_pairs_are_split_by_kind_and_the_nearest_is_another():
    points = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.05]])
    kinds = ["a", "a", "b", "b", "b"]  # the last of b stands among a
    table = words.distances(points)
    other, same = words.between_and_within(table, kinds)
    assert (len(other), len(same)) == (6, 4)
    assert words.nearest_kind(table, kinds).tolist() == [False, False, True, True, False]


# --- self_luong ------------------------------------------------------------------------------------


def test_ulps_count_steps_between_floats():
    one = np.float32([1, -1, 0])
    assert self_luong.ulps(one, one) == 0
    assert self_luong.ulps(one, np.nextafter(one, np.float32(9))) == 1
    assert self_luong.ulps(np.float32([-0.0]), np.float32([0.0])) == 0


def test_self_attention_and_luong_agree_in_every_kernel_and_with_projections():
    random = np.random.default_rng(5)
    h = random.standard_normal((9, 12)).astype(np.float32)
    same = self_luong.by_kernel(h)
    assert {"naive", "flash"} <= set(same) and max(same.values()) <= 4
    maps = [random.standard_normal((12, 7)).astype(np.float32) / 4 for _ in range(3)]
    assert max(self_luong.projected(h, *maps)) < 1e-5


def test_entropy_is_ln_n_where_uniform_and_0_where_certain():
    assert self_luong.entropy(np.full((3, 8), 1 / 8)) == pytest.approx(np.log(8))
    assert self_luong.entropy(np.eye(4)) == 0


# --- collapse --------------------------------------------------------------------------------------


def test_the_residual_is_1_for_centred_tokens_and_0_for_equal_ones():
    x = np.random.default_rng(6).standard_normal((10, 4))
    assert collapse.residual(x - x.mean(0)) == pytest.approx(1)
    assert collapse.residual(np.tile(x[:1], (10, 1))) == pytest.approx(0, abs=1e-12)
    shifted = x - x.mean(0) + np.linalg.norm(x - x.mean(0)) / np.sqrt(10 * 4)
    assert collapse.residual(shifted) == pytest.approx(np.sqrt(0.5))


def test_skips_keep_what_attention_alone_averages_away():
    alone, skipped = (collapse.random_layers(3, 6, skip)[-1] for skip in (False, True))
    assert alone < 1e-3 < 0.3 < skipped


@pytest.mark.weights
@pytest.mark.parametrize("name", ["words", "self_luong", "collapse"])
def test_studies_of_the_real_model_run(name, tmp_path):
    try:
        tensors.load_model("minilm")
    except ValueError as error:
        pytest.skip(str(error))
    found = studies.execute(studies.module(name).STUDY, tmp_path, quick=True)
    assert found["claims"] and found["figures"]


# --- explanations ----------------------------------------------------------------------------------


def test_rank_correlations_are_over_tokens_by_layer_and_over_words_of_content():
    sentence = explanations.Sentence(
        ["the", "cat", "sat", "on", "mats", "softly", "."],
        np.array([0.1, 5, 4, 0.2, 3, 2, 0]),
        np.array([[0.1, 5, 4, 0.2, 3, 2, 0], [9, 2, 3, 8, 4, 5, 7.0]]),
        np.ones((2, 7)),
        np.ones((2, 3, 7)),
    )
    assert sentence.content.tolist() == [False, True, True, False, True, True, False]
    all_tokens = explanations.correlations([sentence], "received")
    np.testing.assert_allclose(all_tokens[0, 0], 1)
    content = explanations.correlations([sentence], "received", content=True)
    np.testing.assert_allclose(content, [[1, -1]])
    assert np.isnan(explanations.correlations([sentence], "heads")).all()  # constant: no ranks
