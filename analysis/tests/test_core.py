# SPDX-License-Identifier: Apache-2.0
"""The extension itself: kernels hosted in Python, the choice of a kernel, limits."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest

_core = pytest.importorskip("attnbench._core")


def _tensors(*shape: int, seed: int = 1) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape, dtype=np.float32) for _ in range(3)]


def _dense(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    logits = q.astype(np.float64) @ np.swapaxes(k.astype(np.float64), -1, -2)
    weights = np.exp(logits / np.sqrt(q.shape[-1]))
    return (weights / weights.sum(-1, keepdims=True)) @ v


class _NumpyKernel:
    """A kernel in Python, as peers are."""

    def __init__(self, problem: dict[str, Any], q: Any, k: Any, v: Any, threads: int) -> None:
        assert problem["queries"] == q.shape[2] and threads == 1
        self.inputs = (q, k, v)

    def run(self) -> None:
        self.result = _dense(*self.inputs).astype(np.float32)

    def output(self) -> np.ndarray:
        return self.result


def test_a_kernel_in_python_is_one_of_the_registry():
    _core.register_kernel("numpy_dense", "dense, by numpy", lambda problem: "", _NumpyKernel, "np")
    info = next(k for k in _core.kernels() if k["name"] == "numpy_dense")
    assert (info["host"], info["target"]) == ("python", "np")
    q, k, v = _tensors(2, 3, 17, 8)
    np.testing.assert_allclose(
        _core.attention(q, k, v, kernel="numpy_dense"), _dense(q, k, v), atol=1e-6
    )
    with pytest.raises(ValueError, match=r"^name: kernel 'numpy_dense' exists already"):
        _core.register_kernel("numpy_dense", "", lambda problem: "", _NumpyKernel)


def test_the_loop_of_the_cpp_kernels_measures_it_checks_it_and_outlives_its_mistakes():
    program = textwrap.dedent("""
        import sys
        import numpy as np
        from attnbench import _core

        class Zeros:
            def __init__(self, problem, q, k, v, threads):
                self.shape = (problem["batch"], problem["heads"], problem["queries"],
                              problem["v_dim"])
            def run(self):
                print("noise on standard output")
                if self.shape[2] == 3:
                    raise RuntimeError("three is too much\\nand more")
            def output(self):
                return np.zeros(self.shape if self.shape[2] != 5 else (1, 1), np.float32)

        refuse = lambda problem: "" if problem["dtype"] == "f32" else "f32 only"
        _core.register_kernel("zeros", "wrong", refuse, Zeros)
        sys.exit(_core.child_loop())
    """)
    problems = [{"queries": 4}, {"queries": 3}, {"queries": 5}, {"queries": 4, "dtype": "bf16"}]
    requests = [{"kernel": "zeros", "problem": p | {"head_dim": 8}} for p in problems]
    requests.append({"kernel": "naive", "problem": {"queries": 16, "head_dim": 8}})
    lines = "".join(
        json.dumps({"case": r, "settings": {"max_seconds": 0.02}}) + "\n" for r in requests
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=lines, capture_output=True, text=True, check=True
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["status"] for r in replies] == ["incorrect", "failed", "failed", "refused", "ok"]
    assert replies[1]["reason"] == "zeros: RuntimeError: three is too much"
    assert "output() must be [batch, heads, queries, v_dim]" in replies[2]["reason"]
    assert replies[3]["reason"] == "f32 only"
    assert replies[4]["median_ns"] > 0
    assert "noise" in done.stderr


def test_auto_finds_a_kernel_for_what_flash_does_not_serve():
    q, k, v = _tensors(2, 1, 9, 8)
    bias = np.zeros((9, 9), np.float32)
    bias[:, 0] = -np.inf
    np.testing.assert_allclose(
        _core.attention(q, k, v, kernel="auto", bias=bias),
        _dense(q, k[..., 1:, :], v[..., 1:, :]),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        _core.attention(q, k, v, kernel="auto", key_lengths=[4, 9])[0],
        _dense(q[0], k[0, :, :4], v[0, :, :4]),
        atol=1e-6,
    )


def test_a_shape_beyond_memory_is_refused_before_it_is_tried():
    q = np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (1 << 20, 8), (0, 4))
    with pytest.raises(ValueError, match=r"^kernel: 'naive' needs 4096 GiB"):
        _core.attention(q, q, q, kernel="naive")


def test_log_sum_exp_merges_two_halves_of_the_keys():
    q, k, v = _tensors(1, 2, 12, 8)
    halves = [
        _core.attention(q, k[..., s, :], v[..., s, :], kernel="naive", return_lse=True)
        for s in (slice(0, 5), slice(5, 12))
    ]
    lse = np.logaddexp(halves[0][1], halves[1][1])
    merged = sum(out * np.exp(part - lse)[..., None] for out, part in halves)
    np.testing.assert_allclose(merged, _dense(q, k, v), atol=1e-6)


def test_the_mask_is_the_predicate():
    mask = _core.mask(6, 9, causal=True, pattern="columns", window=1, stride=3)
    p, j = np.arange(6)[:, None] + 3, np.arange(9)[None, :]
    assert (mask == ((j <= p) & ((abs(p - j) <= 1) | (j % 3 == 2)))).all()
