# SPDX-License-Identifier: Apache-2.0
"""JAX's dot_product_attention, compiled by XLA for the CPU: no fused kernel there, so two matrix
products (by Eigen) around a softmax. Windows are its own argument, computed by masking all pairs.

XLA's threads are fixed when it starts, from the process's CPU mask and environment; a second count
in one process restarts it.
"""

import os

import numpy as np

from attnbench.peer import (
    Array,
    Prepared,
    Problem,
    PythonKernel,
    import_all,
    token_major,
    unserved,
)


def refuse(problem: Problem) -> str:
    # Its causal is top-left; windows too, and they need as many queries as keys.
    reason = unserved(
        problem,
        dtypes=("f32", "bf16"),
        patterns=("full", "local"),
        causal="square",
        unequal_v_dim=False,
    )
    if not reason and problem.mask.pattern == "local" and problem.queries != problem.keys:
        return f"a window with {problem.queries} queries of {problem.keys} keys is not served"
    return reason


_started_with = 0


def _start(threads: int) -> None:
    """Starts XLA with that many threads, or restarts it."""
    global _started_with
    if _started_with == threads:
        return
    os.environ["NPROC"] = str(threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "multi_thread_eigen" not in f]
    flags.append(f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}")
    os.environ["XLA_FLAGS"] = " ".join(flags)
    import jax
    import jax.extend.backend

    # A call then runs on this thread instead of being handed to another and waited for.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if _started_with:
        jax.clear_caches()
        jax.extend.backend.clear_backends()
    _started_with = threads


def prepare(problem: Problem, q: Array, k: Array, v: Array, threads: int) -> Prepared:
    _start(threads)
    import jax

    mask = problem.mask
    causal = mask.causal and not problem.sees_all
    window = None
    if mask.pattern == "local":
        window = (mask.window, 0 if causal else mask.window)

    @jax.jit
    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(
            q, k, v, scale=problem.scale, is_causal=causal, local_window_size=window
        )

    tensors = [jax.device_put(token_major(t)) for t in (q, k, v)]
    compiled = attention.lower(*tensors).compile()
    last = None

    def run() -> None:
        nonlocal last
        last = compiled(*tensors).block_until_ready()

    return Prepared(run, lambda: np.asarray(last).transpose(0, 2, 1, 3))


KERNEL = PythonKernel(
    name="jax",
    idea="JAX dot_product_attention, compiled by XLA",
    packages=("jax", "jaxlib"),
    load=lambda: import_all("jax", "jax.extend.backend"),
    refuse=refuse,
    prepare=prepare,
)
