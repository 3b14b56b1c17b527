# SPDX-License-Identifier: Apache-2.0
"""Heatmaps keep one scale; graphs keep what their rule says, and state the mass."""

from __future__ import annotations

import argparse

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

from attnbench import graph, heatmap, show, tensors
from attnbench.tokenizer import Word

TOKENS = ["[CLS]", "turn", "off", "[SEP]"]
WEIGHTS = np.array(
    [[0.7, 0.1, 0.1, 0.1], [0.0, 0.5, 0.5, 0.0], [0.05, 0.9, 0.05, 0.0], [0.25, 0.25, 0.25, 0.25]]
)


def test_the_heatmaps_scale_is_fixed_and_both_axes_carry_the_tokens():
    figure = heatmap.plot_attention(WEIGHTS / 3, TOKENS, title="t")
    axes, image = figure.axes[0], figure.axes[0].images[0]
    assert image.get_clim() == (0, 1)
    assert [t.get_text() for t in axes.get_xticklabels()] == TOKENS
    assert [t.get_text() for t in axes.get_yticklabels()] == TOKENS


def test_one_head_in_front_is_dropped_and_other_shapes_are_refused():
    heatmap.plot_attention(WEIGHTS[None], TOKENS)
    heatmap.plot_attention(WEIGHTS[:2], TOKENS[:2], key_tokens=TOKENS)
    with pytest.raises(ValueError, match="weights"):
        heatmap.plot_attention(WEIGHTS, TOKENS[:3])
    with pytest.raises(ValueError, match="weights"):
        heatmap.plot_attention(WEIGHTS * 2, TOKENS)
    with pytest.raises(ValueError, match="weights"):
        heatmap.plot_attention(WEIGHTS * np.nan, TOKENS)


def test_a_threshold_keeps_the_edges_at_and_over_it_and_counts_their_mass():
    found = graph.attention_graph(WEIGHTS, TOKENS, threshold=0.5)
    assert found.edges == ((2, 1, 0.9), (0, 0, 0.7), (1, 1, 0.5), (1, 2, 0.5))
    assert found.mass_kept == pytest.approx(2.6 / 4)
    assert graph.attention_graph(WEIGHTS, TOKENS, threshold=0).mass_kept == pytest.approx(1)


def test_a_top_keeps_so_many_of_every_word():
    found = graph.attention_graph(WEIGHTS, TOKENS, top=1)
    assert {edge[0] for edge in found.edges} == {0, 1, 2, 3}
    assert len(found.edges) == 4


@pytest.mark.parametrize("rule", [{"threshold": -1}, {"top": 0}, {"top": 1, "threshold": 0.5}])
def test_a_rule_out_of_range_is_refused(rule):
    with pytest.raises(ValueError, match=r"threshold|top"):
        graph.attention_graph(WEIGHTS, TOKENS, **rule)


def test_merged_words_keep_rows_that_sum_to_one():
    words = [Word("[CLS]", (0,)), Word("turning", (1, 2)), Word("[SEP]", (3,))]
    merged = graph.merge_words(WEIGHTS, words)
    np.testing.assert_allclose(merged.sum(1), 1)
    assert merged[1, 1] == pytest.approx((0.5 + 0.5 + 0.9 + 0.05) / 2)
    assert merged[0, 1] == pytest.approx(0.2)


def test_rollout_multiplies_the_layers_and_keeps_rows_that_sum_to_one():
    through = graph.rollout([WEIGHTS, WEIGHTS.T / WEIGHTS.T.sum(1, keepdims=True)], skip=0)
    np.testing.assert_allclose(through, WEIGHTS.T / WEIGHTS.sum(0)[:, None] @ WEIGHTS)
    np.testing.assert_allclose(graph.rollout([WEIGHTS] * 3).sum(1), 1)
    np.testing.assert_array_equal(graph.rollout([WEIGHTS], skip=1), np.eye(4))
    with pytest.raises(ValueError, match="skip"):
        graph.rollout([WEIGHTS], skip=2)


def test_a_layered_graph_has_an_edge_for_every_weight_kept_and_states_the_mass():
    figure = graph.plot_layers([WEIGHTS, WEIGHTS * 0 + 0.25], TOKENS, threshold=0.5, title="t")
    assert len(figure.axes[0].lines) == 4  # those of the first layer, none of the second
    assert any("carry 32% of all" in text.get_text() for text in figure.texts)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "input", "after layer 0", "after layer 1",
    ]  # fmt: skip


def test_a_graph_states_its_rule_and_mass():
    figure = graph.plot_graph(graph.attention_graph(WEIGHTS, TOKENS), "t")
    assert any("at least 0.1; they carry 98% of all" in text.get_text() for text in figure.texts)
    empty = graph.attention_graph(WEIGHTS * 0, TOKENS)
    assert empty.edges == ()
    graph.plot_graph(empty)


def arguments(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    show.add_arguments(parser)
    return parser.parse_args(argv)


@pytest.fixture(scope="module")
def real():
    pytest.importorskip("attnbench._core")
    try:
        tensors.load_model("minilm")
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.weights
def test_it_looks_at_the_animal(real, tmp_path, capsys):
    sentence = "The animal didn't cross the street because it was too tired"
    assert show.main(arguments(sentence, "-o", str(tmp_path))) == 0
    out = capsys.readouterr().out
    assert "'it' looks at: animal 0.6" in out
    assert "of all attention kept" in out
    files = sorted(path.name for path in tmp_path.iterdir())
    assert [name.split("-")[-1] for name in files] == [
        "graph.pdf", "graph.png", "heatmap.pdf", "heatmap.png",
    ]  # fmt: skip
    assert all(path.stat().st_size > 3000 for path in tmp_path.iterdir())


@pytest.mark.weights
@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["Turn off the lights", "--layer", "6"], "--layer"),
        (["Turn off the lights", "--head", "-1"], "--head"),
        (["Turn off the lights", "--word", "door"], "--word"),
        (["lights"], "SENTENCE"),
        (["Turn off the lights", "--kernel", "none"], "kernel"),
        (["Turn off the lights", "--pattern", "local", "--window", "-1"], "window"),
        ([], "SENTENCE"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_status_2(real, argv, named, tmp_path, capsys):
    assert show.main(arguments(*argv, "-o", str(tmp_path / "new"))) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.weights
def test_a_mask_is_shown_as_the_kernel_applies_it(real):
    reading = show.read("The cat sat on the mat")
    weights, distance = show.kernel_weights(
        reading.q[0][0], reading.k[0][0], pattern="local", window=1, causal=True
    )
    assert distance < 1e-6
    assert np.count_nonzero(weights[5]) == 2
