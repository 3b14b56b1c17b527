# SPDX-License-Identifier: Apache-2.0
"""Writes run directories whose truth is known: what the harness would record of kernels that take
`offset + scale * n^exponent` nanoseconds, with noise a round (a process) and noise a sample."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

PEAK_GFLOPS = 100.0
SIZES = (128, 256, 512, 1024, 2048)
# kernel: (offset_ns, ns per n^exponent and head_dim, exponent, bytes per n^memory, memory exponent)
KERNELS: dict[str, tuple[float, float, float, float, float]] = {
    "naive": (3e3, 0.25, 2.0, 4.0, 2.0),
    "blis_blocked": (8e3, 0.05, 2.0, 900.0, 1.0),
    "flash": (4e3, 0.045, 2.0, 512.0, 1.0),
    "local_window": (4e3, 12.0, 1.0, 600.0, 1.0),
}
ENVIRONMENT = {
    "cpu": {"model": "Example CPU 9000", "allowed": [0, 1]},
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
    "caches": [{"level": level, "bytes": size} for level, size in ((1, 2**15), (2, 2**20))],
    "machine": "example-2c",
}


def record(
    kernel: str, n: int, d: int, round_index: int, samples_ns: Iterable[float] | None = None,
    **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """One record as the harness writes it, ok when it has samples. `changes` replace fields."""
    local = kernel == "local_window"
    pairs = n * 513.0 if local else float(n) * n
    useful = {"flops": 4 * d * pairs, "exps": pairs, "bytes": 16.0 * n * d}
    made: dict[str, Any] = {
        "schema": 1, "run": "r", "session": "s1", "build": "b1", "started": "2026-01-02T03:04:05Z",
        "experiment": "quick", "case": f"{kernel}-{n}-{d}", "round": round_index, "kernel": kernel,
        "kind": "attention", "host": "cpp", "options": {"tile": 64}, "target": "AVX3",
        "status": "ok", "reason": "",
        "problem": {
            "batch": 1, "heads": 1, "kv_heads": 1, "queries": n, "keys": n, "head_dim": d,
            "v_dim": d, "dtype": "f32", "score": "scaled_dot", "scale": d**-0.5,
            "mask": {
                "pattern": "local" if local else "full", "window": 256 if local else 0,
                "stride": 0, "offset": -1, "columns": 0, "sinks": 0, "causal": False,
            },
        },
        "threads": 1, "cpus": [1], "ranks": 1, "input": {"kind": "gaussian", "logit_scale": 1.0},
        "seed": 1, "cache": "warm", "flags": [], "stop": "precision", "useful": useful,
        "executed": useful, "workspace_bytes": 65536, "error": 3e-7, "error_frobenius": 2e-7,
        "tolerance": 2e-6, "rows_checked": 64, "ceiling_gflops": PEAK_GFLOPS,
    }  # fmt: skip
    if samples_ns is not None:
        samples = [float(s) for s in samples_ns]
        median = float(np.median(samples))
        made |= {"samples_ns": samples, "median_ns": median,
                 "gflops": useful["flops"] / median,
                 "fraction_of_ceiling": useful["flops"] / median / PEAK_GFLOPS}  # fmt: skip
    return made | changes


def switched() -> list[dict[str, Any]]:
    """A kernel with its usual options, and with one of two set otherwise: 10 % slower, 5 % faster;
    at two widths."""
    usual = {"block": 64, "lazy": 1, "fetch": 1}
    settings = {"usual": (usual, 1.0), "lazy": (usual | {"lazy": 0}, 1 / 0.9),
                "block": (usual | {"block": 128}, 1 / 1.05)}  # fmt: skip
    return [
        record("flash", 512, d, round_, [factor * d * (1 + 0.01 * round_)],
               case=f"{name}-{d}", options=options)
        for name, (options, factor) in settings.items() for d in (64, 128) for round_ in range(4)
    ]  # fmt: skip


def write_run(
    directory: Path, records: Iterable[dict[str, Any]], environment: dict[str, Any] | None = None
) -> Path:
    """Writes records.jsonl and environment.json; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(r) + "\n" for r in records)
    (directory / "records.jsonl").write_text(lines)
    (directory / "environment.json").write_text(json.dumps(environment or ENVIRONMENT))
    return directory


def sweep(
    sizes: Iterable[int] = SIZES, head_dims: Iterable[int] = (64,), rounds: int = 6,
    samples: int = 9, round_noise: float = 0.01, sample_noise: float = 0.01, seed: int = 1,
    slower: Callable[[str, int], float] = lambda kernel, n: 1.0,
    kernels: Iterable[str] = tuple(KERNELS), **changes: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """Records of a whole sweep. `slower(kernel, n)` multiplies the true time."""
    rng = np.random.default_rng(seed)
    made = []
    for round_index in range(rounds):
        for kernel in kernels:
            offset, scale, exponent, bytes_scale, bytes_exponent = KERNELS[kernel]
            for n in sizes:
                for d in head_dims:
                    true = (offset + scale * d * n**exponent) * slower(kernel, n)
                    base = true * np.exp(round_noise * rng.normal())
                    drawn = base * np.exp(sample_noise * rng.normal(size=samples))
                    made.append(record(
                        kernel, n, d, round_index, drawn,
                        peak_rss_bytes=int(bytes_scale * n**bytes_exponent), **changes,
                    ))  # fmt: skip
    return made


def with_gaps(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds one case of every other status, as a sweep to larger sizes would."""
    gaps = [
        record("naive", 32768, 64, 0, status="skipped", predicted_bytes=4 * 32768**2,
               predicted_ns=0.25 * 64 * 32768.0**2, ceiling_gflops=None,
               reason="memory: predicted 4.0 GiB is over the budget of 2.0 GiB"),
        record("flash", 32768, 64, 0, status="timeout", ceiling_gflops=None,
               reason="no answer within 120 s"),
        record("blis_blocked", 32768, 64, 0, status="failed", ceiling_gflops=None,
               reason="killed by signal 11 (SIGSEGV)"),
        record("local_window", 32768, 64, 0, status="incorrect", error=0.25, ceiling_gflops=None,
               reason="error 0.25 is over the tolerance 2e-06 at row 5"),
        record("luong", 128, 64, 0, status="refused", ceiling_gflops=None,
               reason="score: serves dot only"),
    ]  # fmt: skip
    return records + gaps
