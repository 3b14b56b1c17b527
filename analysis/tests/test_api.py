# SPDX-License-Identifier: Apache-2.0
"""The Python functions give what their formulas say, and name the argument that is wrong."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import attnbench

pytest.importorskip("attnbench._core")
bfloat16 = pytest.importorskip("ml_dtypes").bfloat16


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def dense(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, mask: Any = None
) -> np.ndarray:
    logits = scale * q.astype(float) @ np.swapaxes(k.astype(float), -1, -2)
    if mask is not None:
        logits = np.where(mask, logits, -np.inf)
    return softmax(logits) @ v.astype(float)


@pytest.fixture
def random() -> Any:
    generator = np.random.default_rng(7)
    return lambda *shape: generator.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 3, 19, 16), (3, 19, 16), (19, 16), (1, 1)])
def test_attention_is_softmax_of_scaled_products_whatever_the_dimensions(random, shape):
    q, k, v = (random(*shape) for _ in range(3))
    out = attnbench.attention(q, k, v)
    assert out.shape == shape
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, dense(q, k, v, shape[-1] ** -0.5), atol=2e-6)


def test_bfloat16_comes_back_as_bfloat16(random):
    q, k, v = (random(9, 8).astype(bfloat16) for _ in range(3))
    out = attnbench.attention(q, k, v)
    assert out.dtype == bfloat16
    np.testing.assert_allclose(out.astype(float), dense(q, k, v, 8**-0.5), atol=0.03)


def test_causal_lets_the_last_query_see_all_keys(random):
    q, k, v = random(3, 8), random(7, 8), random(7, 8)
    mask = np.arange(7) <= np.arange(3)[:, None] + 4
    out = attnbench.attention(q, k, v, causal=True)
    np.testing.assert_allclose(out, dense(q, k, v, 8**-0.5, mask), atol=2e-6)


def test_a_window_is_a_half_width(random):
    q, k, v = (random(12, 8) for _ in range(3))
    mask = np.abs(np.subtract.outer(np.arange(12), np.arange(12))) <= 2
    out = attnbench.attention(q, k, v, window=2)
    np.testing.assert_allclose(out, dense(q, k, v, 8**-0.5, mask), atol=2e-6)


def test_strided_views_are_read_in_place(random):
    whole = random(10, 3, 8)
    q, k, v = (whole.transpose(1, 0, 2) for _ in range(3))
    np.testing.assert_allclose(attnbench.attention(q, k, v), dense(q, k, v, 8**-0.5), atol=2e-6)


def test_weights_sum_to_one_and_vanish_where_masked(random):
    weights = attnbench.attention_weights(random(2, 6, 4), random(2, 6, 4), causal=True)
    assert weights.shape == (2, 6, 6)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert not np.triu(weights[0], 1).any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_self_attention_is_projections_heads_and_output_matrix(random, batch, causal):
    n, model, heads, d, dv = 7, 10, 2, 4, 3
    x = random(*batch, n, model)
    wq, wk, wv = random(model, heads * d), random(model, heads * d), random(model, heads * dv)
    wo = random(heads * dv, 5)
    output, weights = attnbench.self_attention(x, wq, wk, wv, wo, heads=heads, causal=causal)
    parts = []
    mask = np.tri(n, dtype=bool) if causal else None
    for h in range(heads):
        q, k = (x @ w[:, h * d : (h + 1) * d] for w in (wq, wk))
        parts.append(dense(q, k, x @ wv[:, h * dv : (h + 1) * dv], d**-0.5, mask))
        expected = dense(q, k, np.eye(n, dtype=np.float32), d**-0.5, mask)
        np.testing.assert_allclose(weights[..., h, :, :], expected, atol=5e-6)
    np.testing.assert_allclose(output, np.concatenate(parts, -1) @ wo, atol=5e-5)
    assert weights.shape == (*batch, heads, n, n)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("score", ["dot", "general", "concat", "location"])
def test_luong_scores(random, score, batch):
    m, n, ds, de, hidden = 4, 6, 5, 5 if score == "dot" else 7, 3
    s, h = random(*batch, m, ds), random(*batch, n, de)
    w = {"dot": None, "general": random(ds, de), "concat": random(hidden, ds + de),
         "location": random(n, ds)}[score]  # fmt: skip
    v = random(hidden) if score == "concat" else None
    if score == "dot":
        scores = s @ np.swapaxes(h, -1, -2)
    elif score == "general":
        scores = s @ w @ np.swapaxes(h, -1, -2)
    elif score == "location":
        scores = s @ w.T
    else:
        scores = (
            np.tanh((s @ w[:, :ds].T)[..., :, None, :] + (h @ w[:, ds:].T)[..., None, :, :]) @ v
        )
    context, weights = attnbench.luong_attention(s, h, score, w=w, v=v)
    np.testing.assert_allclose(weights, softmax(scores), atol=5e-6)
    np.testing.assert_allclose(context, softmax(scores) @ h, atol=2e-5)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_bahdanau_is_v_tanh_of_both_projections(random, batch):
    s, h = random(*batch, 4, 5), random(*batch, 6, 8)
    w, u, v = random(5, 3), random(8, 3), random(3)
    context, weights = attnbench.bahdanau_attention(s, h, w, u, v)
    scores = np.tanh((s @ w)[..., :, None, :] + (h @ u)[..., None, :, :]) @ v
    np.testing.assert_allclose(weights, softmax(scores), atol=5e-6)
    np.testing.assert_allclose(context, softmax(scores) @ h, atol=2e-5)


def test_every_kernel_has_a_name_and_an_idea():
    kernels = attnbench.kernels()
    assert {"naive", "flash", "reference"} <= {kernel["name"] for kernel in kernels}
    assert all(kernel["idea"] for kernel in kernels)


A = np.zeros((4, 8), np.float32)
WRONG = [
    ("q", lambda: attnbench.attention(A.astype(float), A, A)),
    ("q", lambda: attnbench.attention(A[0], A, A)),
    ("k", lambda: attnbench.attention(A, A[:, :4], A)),
    ("k", lambda: attnbench.attention(A, A.astype(bfloat16), A)),
    ("v", lambda: attnbench.attention(A, A, A[:3])),
    ("kernel", lambda: attnbench.attention(A, A, A, kernel="flush")),
    ("kernel", lambda: attnbench.attention(A, A, A, kernel=3)),
    ("kernel", lambda: attnbench.luong_attention(A, A, "general", A.T @ A, kernel="flash")),
    ("pattern", lambda: attnbench.attention(A, A, A, pattern="diagonal")),
    ("window", lambda: attnbench.attention(A, A, A, window=2, pattern="full")),
    ("window", lambda: attnbench.attention(A, A, A, window=1.5)),
    ("causal", lambda: attnbench.attention(A, A, A, causal="yes")),
    ("scale", lambda: attnbench.attention(A, A, A, scale=float("inf"))),
    ("scale", lambda: attnbench.attention(A, A, A, scale=float("nan"))),
    ("softcap", lambda: attnbench.attention(A, A, A, softcap=float("nan"))),
    ("threads", lambda: attnbench.attention(A, A, A, threads=0)),
    ("options", lambda: attnbench.attention(A, A, A, options={"speed": 1})),
    ("x", lambda: attnbench.self_attention(A[0], A.T, A.T, A.T)),
    ("wk", lambda: attnbench.self_attention(A, A.T, A, A.T)),
    ("heads", lambda: attnbench.self_attention(A, A.T, A.T, A.T, heads=3)),
    ("wo", lambda: attnbench.self_attention(A, A.T, A.T, A.T, A.T)),
    ("encoder_states", lambda: attnbench.luong_attention(A, A[None])),
    ("score", lambda: attnbench.luong_attention(A, A, "product")),
    ("w", lambda: attnbench.luong_attention(A, A, "general")),
    ("w", lambda: attnbench.luong_attention(A, A, "general", w=A)),
    ("v", lambda: attnbench.luong_attention(A, A, "concat", w=np.zeros((3, 16), np.float32))),
    ("states", lambda: attnbench.luong_attention(A[:, :4], A)),
    ("u", lambda: attnbench.bahdanau_attention(A, A, A.T, A, A[:, 0])),
]  # fmt: skip


@pytest.mark.parametrize(("argument", "call"), WRONG)
def test_a_wrong_argument_is_named(argument, call):
    with pytest.raises(ValueError, match=f"^{re.escape(argument)}: "):
        call()
