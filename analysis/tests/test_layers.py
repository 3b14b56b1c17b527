# SPDX-License-Identifier: Apache-2.0
"""Layers from Python give what their sources' formulas and PyTorch's layers say."""

from __future__ import annotations

import doctest
import inspect
from typing import Any

import numpy as np
import pytest

import attnbench

pytest.importorskip("attnbench._core")


@pytest.fixture
def random() -> Any:
    generator = np.random.default_rng(11)
    return lambda *shape: (generator.standard_normal(shape) * 0.5).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def heads_of(x: np.ndarray, heads: int) -> np.ndarray:
    """[n, heads * d] -> [heads, n, d]."""
    return np.moveaxis(x.reshape(len(x), heads, -1), 1, 0)


def by_the_formula(
    x: np.ndarray, memory: np.ndarray, wq: np.ndarray, wk: np.ndarray, wv: np.ndarray,
    heads: int, groups: int, bias: Any = 0.0, turn: Any = lambda q: q,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Section 3.2.2 of Vaswani et al. 2017 in float64, without the output projection."""
    q = turn(heads_of(x.astype(float) @ wq, heads))
    k, v = turn(heads_of(memory.astype(float) @ wk, groups)), heads_of(memory @ wv, groups)
    k, v = np.repeat(k, heads // groups, 0), np.repeat(v, heads // groups, 0)
    weights = softmax(q @ np.swapaxes(k, 1, 2) / np.sqrt(q.shape[-1]) + bias)
    return np.moveaxis(weights @ v, 0, 1).reshape(len(x), -1), weights


@pytest.mark.parametrize("kernel", ["flash", "naive", "blis_blocked", "auto"])
@pytest.mark.parametrize(("heads", "groups"), [(1, 1), (4, 4), (4, 2), (4, 1)])
def test_multi_head_attention_is_the_papers_formula(random, kernel, heads, groups):
    x, wq, wo = random(13, 20), random(20, 8 * heads), random(6 * heads, 9)
    wk, wv = random(20, 8 * groups), random(20, 6 * groups)
    out, weights = attnbench.multi_head_attention(
        x, wq, wk, wv, wo, heads, kv_heads=groups, kernel=kernel
    )
    expected, expected_weights = by_the_formula(x, x, wq, wk, wv, heads, groups)
    np.testing.assert_allclose(out, expected @ wo, atol=1e-5)
    np.testing.assert_allclose(weights, expected_weights, atol=1e-6)


def test_cross_attention_looks_at_the_second_sequence(random):
    x, memory, w = random(2, 5, 8), random(2, 9, 8), random(8, 8)
    out, weights = attnbench.multi_head_attention(x, w, w, w, None, 2, memory)
    assert weights.shape == (2, 2, 5, 9)
    for b in range(2):
        expected, expected_weights = by_the_formula(x[b], memory[b], w, w, w, 2, 2)
        np.testing.assert_allclose(out[b], expected, atol=1e-5)
        np.testing.assert_allclose(weights[b], expected_weights, atol=1e-6)


def test_sinusoidal_positions_are_added(random):
    x, w = random(7, 6), random(6, 6)
    position, pair = np.arange(7)[:, None], np.arange(3)
    angle = position / 10000 ** (2 * pair / 6)
    table = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(7, 6)
    out, _ = attnbench.multi_head_attention(x, w, w, w, None, 1, encoding="sinusoidal")
    np.testing.assert_allclose(
        out, by_the_formula(x + table, x + table, w, w, w, 1, 1)[0], atol=1e-5
    )


def test_learned_positions_are_added(random):
    x, w, table = random(7, 6), random(6, 6), random(7, 6)
    out, _ = attnbench.multi_head_attention(
        x, w, w, w, None, 1, encoding="learned", positions=table
    )
    np.testing.assert_allclose(
        out, by_the_formula(x + table, x + table, w, w, w, 1, 1)[0], atol=1e-5
    )


def test_rotary_turns_queries_and_keys(random):
    x, w = random(7, 8), random(8, 8)
    angle = np.arange(7)[:, None] / 10000 ** (2 * np.arange(2) / 4)

    def turn(q: np.ndarray) -> np.ndarray:  # [heads, n, 4]: pairs of columns as complex numbers
        pairs = (q[..., ::2] + 1j * q[..., 1::2]) * np.exp(1j * angle)
        return np.stack([pairs.real, pairs.imag], -1).reshape(q.shape)

    out, _ = attnbench.multi_head_attention(x, w, w, w, None, 2, encoding="rotary")
    np.testing.assert_allclose(out, by_the_formula(x, x, w, w, w, 2, 2, turn=turn)[0], atol=1e-5)


def test_alibi_is_a_penalty_on_distance(random):
    x, w = random(7, 8), random(8, 8)
    distance = np.abs(np.subtract.outer(np.arange(7), np.arange(7)))
    slopes = 2.0 ** (-8 * np.arange(1, 5) / 4)
    out, _ = attnbench.multi_head_attention(x, w, w, w, None, 4, encoding="alibi")
    expected = by_the_formula(x, x, w, w, w, 4, 4, bias=-slopes[:, None, None] * distance)[0]
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_masks_reach_the_weights(random):
    x, w = random(20, 8), random(8, 8)
    given = {"pattern": "columns", "window": 2, "stride": 5, "sinks": 1, "causal": True}
    _, weights = attnbench.multi_head_attention(x, w, w, w, w, 2, **given, kernel="auto")
    admitted = attnbench.attention_weights(x, x, **given) > 0
    assert np.array_equal(weights > 0, np.broadcast_to(admitted, weights.shape))


GATES = {"rnn": 1, "lstm": 4, "gru": 3}


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize(
    ("batch", "n", "model", "hidden"), [(1, 1, 1, 1), (1, 40, 24, 33), (3, 17, 5, 64)]
)
def test_recurrent_layers_equal_pytorchs(random, name, batch, n, model, hidden):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'peers')")
    theirs = getattr(torch.nn, name.upper())(model, hidden, batch_first=True)
    x = random(batch, n, model)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x))[0].numpy()
    weights = [p.detach().numpy() for p in theirs.parameters()]
    for threads in (1, 2):
        out = getattr(attnbench, name)(x, *weights, threads=threads)
        np.testing.assert_allclose(out, expected, atol=2e-6)


def test_the_lstm_is_its_equations(random):
    x, w, u, b = random(6, 3), random(8, 3), random(8, 2), random(8)
    h, c, states = np.zeros(2), np.zeros(2), []
    for step in x:
        i, f, g, o = np.split(w @ step + b + u @ h, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        states.append(h)
    np.testing.assert_allclose(attnbench.lstm(x, w, u, b), states, atol=1e-6)
    np.testing.assert_allclose(attnbench.lstm(x, w, u, b_hh=b), states, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: attnbench.lstm(x, w, w), "w_hh: must be [32, 8]"),
        (lambda x, w: attnbench.gru(x[None, None], w, w), "x: must have 2 or 3"),
        (lambda x, w: attnbench.rnn(x, w, w, b_ih=x), "b_ih: must have 1 dimensions"),
        (lambda x, w: attnbench.rnn(x, w, w, threads=0), "threads: must be"),
        (lambda x, w: attnbench.self_attention(x, w, w, w, heads=3), "heads: 3 do not divide wq"),
        (lambda x, w: attnbench.self_attention(x, w, w, w, kernel="x"), "kernel: no kernel 'x'"),
        (
            lambda x, w: attnbench.multi_head_attention(x, w, w, w, w, 2, encoding="learned"),
            "positions: belong to",
        ),
        (
            lambda x, w: attnbench.multi_head_attention(x, w, w, w, w, 2, encoding="odd"),
            "encoding: unknown",
        ),
        (
            lambda x, w: attnbench.multi_head_attention(x, w, w, w, w, 2, memory=x[:, :4]),
            "memory: must have x's 8 columns",
        ),
        (
            lambda x, w: attnbench.multi_head_attention(x, w, w, w, w, 2, kernel="local_window"),
            "kernel: 'local_window'",
        ),
    ],
)
def test_what_is_wrong_is_named(random, call, message):
    with pytest.raises(ValueError) as raised:
        call(random(5, 8), random(8, 8))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("name", [n for n in attnbench.__all__ if n not in ("load", "figures")])
def test_the_examples_run(name):
    function = getattr(attnbench, name)
    examples = doctest.DocTestFinder(recurse=False).find(
        function, name, globs={}, module=inspect.getmodule(function)
    )
    tests = [e for test in examples for e in test.examples]
    needs_more = ("kernel", "kernels", "plot_graph", "plot_heads", "summarise")  # see the tutorial
    assert tests or name in needs_more, "has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in examples:
        assert runner.run(test).failed == 0
