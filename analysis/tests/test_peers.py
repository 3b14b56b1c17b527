# SPDX-License-Identifier: Apache-2.0
"""Peers: what they accept they compute right, what they do not they refuse by name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from attnbench import host, peer
from attnbench.peer import Mask, Problem

NAMES = list(peer.peer_files())
CAUSAL_256 = {"pattern": "local", "window": 16, "causal": True}
# Compiling takes seconds a case.
SLOW = {"pytorch_flex"}

SHAPES: list[dict[str, Any]] = [
    {"queries": 64, "head_dim": 64},
    {"queries": 67, "head_dim": 64, "batch": 2, "heads": 4, "kv_heads": 2},
    {"queries": 33, "keys": 130, "head_dim": 64, "heads": 2},
    {"queries": 1, "keys": 129, "head_dim": 128, "heads": 8, "kv_heads": 2},
    {"queries": 7, "keys": 77, "head_dim": 32, "heads": 2, "kv_heads": 1},
    {"queries": 63, "head_dim": 80, "heads": 3},
    {"queries": 65, "head_dim": 64, "v_dim": 96},
    {"queries": 300, "head_dim": 40, "heads": 2},
]
MASKS: list[dict[str, Any]] = [
    {},
    {"causal": True},
    CAUSAL_256,
    {"pattern": "local", "window": 5},
    {"pattern": "columns", "window": 4, "stride": 16, "causal": True},
    {"pattern": "strided", "window": 4, "stride": 16, "causal": True},
    {"pattern": "fixed", "stride": 16, "columns": 2, "causal": True},
    {"pattern": "local", "window": 8, "sinks": 3, "causal": True},
]


def problems(name: str) -> Iterator[Problem]:
    for dtype in ("f32", "bf16"):
        for number, shape in enumerate(SHAPES):
            for mask in MASKS:
                if name in SLOW and not (number == 1 and mask in MASKS[:3]):
                    continue
                yield Problem.from_json({**shape, "dtype": dtype, "mask": mask})


def inputs(problem: Problem) -> tuple[peer.Array, peer.Array, peer.Array]:
    random = np.random.default_rng(7)
    dtype = np.float32 if problem.dtype == "f32" else ml_dtypes.bfloat16
    p = problem
    shapes = (
        (p.batch, p.heads, p.queries, p.head_dim),
        (p.batch, p.kv_heads, p.keys, p.head_dim),
        (p.batch, p.kv_heads, p.keys, p.v_dim),
    )
    q, k, v = (random.standard_normal(shape).astype(dtype) for shape in shapes)
    return q, k, v


def expected(problem: Problem, q: peer.Array, k: peer.Array, v: peer.Array) -> peer.Array:
    """Attention by its definition, float64."""
    group = problem.heads // problem.kv_heads
    q, k, v = (t.astype(np.float64) for t in (q, k, v))
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    logits = problem.scale * np.einsum("bhid,bhjd->bhij", q, k)
    if problem.softcap > 0:
        logits = problem.softcap * np.tanh(logits / problem.softcap)
    logits = np.where(problem.admitted(), logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def kernel_or_skip(name: str) -> peer.PythonKernel:
    kernel = peer.load_peer(name).KERNEL
    dense = Problem.from_json({"queries": 64, "head_dim": 64})
    unavailable = peer.missing_packages(kernel.packages) or (
        kernel.environment() if kernel.environment else ""
    )
    if unavailable:
        assert kernel.refusal(dense) == unavailable
        pytest.skip(unavailable)
    return kernel


@pytest.mark.parametrize("name", NAMES)
def test_what_a_peer_accepts_it_computes_right(name: str) -> None:
    kernel = kernel_or_skip(name)
    accepted = 0
    for problem in problems(name):
        if kernel.refusal(problem):
            continue
        q, k, v = inputs(problem)
        prepared = kernel.prepare(problem, q, k, v, 1)
        for _ in range(2):  # a second run must not see what the first left
            prepared.run()
        out = prepared.output()
        assert out.shape == (problem.batch, problem.heads, problem.queries, problem.v_dim)
        assert out.dtype == q.dtype
        error = np.abs(out.astype(np.float64) - expected(problem, q, k, v)).max()
        limit = (2e-6 if problem.dtype == "f32" else 1e-2) * np.abs(v.astype(np.float64)).max()
        assert error <= limit, f"{problem}: error {error}"
        accepted += 1
    assert accepted > 0


@pytest.mark.parametrize("name", NAMES)
def test_views_with_free_strides_are_served(name: str) -> None:
    kernel = kernel_or_skip(name)
    problem = Problem.from_json({"queries": 40, "heads": 3, "head_dim": 32})
    q, k, v = inputs(problem)
    strided = [
        np.ascontiguousarray(t.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for t in (q, k, v)
    ]
    prepared = kernel.prepare(problem, *strided, 1)
    prepared.run()
    np.testing.assert_allclose(prepared.output(), expected(problem, q, k, v), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_process_is_left_as_it_was(name: str) -> None:
    """Kernels of one problem share a process: none may change rounding of denormals or the CPU
    mask for those after it."""
    kernel = kernel_or_skip(name)
    problem = Problem.from_json({"queries": 64, "heads": 2, "head_dim": 64})
    mask = os.sched_getaffinity(0)
    prepared = kernel.prepare(problem, *inputs(problem), 1)
    prepared.run()
    assert (np.full(16, 1e-40, np.float32) * np.float32(0.5) > 0).all()
    assert os.sched_getaffinity(0) == mask


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"score": "additive"}, "score 'additive'"),
        ({"dtype": "f64", "out_dtype": "f64"}, "dtype 'f64'"),
        ({"dtype": "bf16", "out_dtype": "f32"}, "out_dtype 'f32'"),
        ({"bias": True}, "bias"),
        ({"key_lengths": True}, "key_lengths"),
        ({"centers": True}, "centers"),
        ({"mask": {"pattern": "tiles"}}, "pattern 'tiles'"),
    ],
)
def test_what_no_peer_serves_is_refused_by_name(
    name: str, change: dict[str, Any], reason: str
) -> None:
    problem = Problem.from_json({"queries": 64, "head_dim": 64, **change})
    refusal = peer.load_peer(name).KERNEL.refuse(problem)
    assert reason in refusal or "dtype 'bf16' is not served" in refusal


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_refuses_with_the_remedy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(package: str) -> str:
        raise peer.importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(peer.importlib.metadata, "version", absent)
    kernel = peer.load_peer(name).KERNEL
    reason = kernel.refusal(Problem.from_json({"queries": 64, "head_dim": 64}))
    package = kernel.packages[0]
    assert reason == f"package {package} is not installed (pip install {package})"


def test_loading_all_peers_imports_none_of_their_packages() -> None:
    code = (
        "import sys; from attnbench import host; names = [k.name for k in host.peers()];"
        "packages = {'torch', 'jax', 'onnxruntime', 'openvino', 'zentorch', 'vllm'};"
        "heavy = packages & set(sys.modules);"
        "assert not heavy, heavy; print(*names)"
    )
    package_folder = str(Path(peer.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": package_folder},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == NAMES


def test_a_broken_file_is_listed_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_written.py").write_text("KERNEL = undefined\n")
    monkeypatch.setattr(peer, "PEERS", tmp_path)
    (kernel,) = host.peers()
    assert kernel.name == "half_written"
    assert "undefined" in kernel.refuse({"queries": 64, "head_dim": 64})


def test_the_fastest_candidate_is_taken_and_remembered() -> None:
    made = []

    def candidate(name: str, seconds: float) -> Callable[[], peer.Prepared]:
        def make() -> peer.Prepared:
            made.append(name)
            return peer.Prepared(lambda: time.sleep(seconds), lambda: np.full(1, seconds))

        return make

    candidates = {"slow": candidate("slow", 0.005), "fast": candidate("fast", 0.001)}
    for _ in range(2):
        assert peer.fastest("key of this test", candidates, seconds=0.02).output() == 0.001
    assert made == ["slow", "fast", "fast"]


@pytest.mark.parametrize(
    ("mask", "query", "key", "admitted"),
    [
        (Mask(), 0, 9, True),
        (Mask(causal=True), 3, 4, False),
        (Mask("local", window=2), 5, 7, True),
        (Mask("local", window=2), 5, 8, False),
        (Mask("local", window=2, sinks=1), 5, 0, True),
        (Mask("strided", window=1, stride=4), 9, 1, True),
        (Mask("strided", window=1, stride=4), 9, 2, False),
        (Mask("columns", window=1, stride=4), 9, 3, True),
        (Mask("columns", window=1, stride=4, offset=0), 9, 3, False),
        (Mask("fixed", stride=4, columns=1), 9, 8, True),
        (Mask("fixed", stride=4, columns=1), 9, 3, True),
        (Mask("fixed", stride=4, columns=1, causal=True), 9, 11, False),
    ],
)
def test_the_mask_is_the_contracts(mask: Mask, query: int, key: int, admitted: bool) -> None:
    assert bool(mask.admits(np.int64(query), np.int64(key))) is admitted
