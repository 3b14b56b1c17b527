# SPDX-License-Identifier: Apache-2.0
"""PyTorch's flex_attention: the mask is a Python predicate, torch.compile makes a C++ kernel of it
that visits only the blocks in which the predicate holds anywhere (the block mask, made in prepare).

Compiling takes seconds and a C++ compiler; it happens once for a shape and mask, in prepare.
Patterns whose columns touch every block (columns, strided with stride < 128) skip no block.
"""

import functools
import shutil
from collections.abc import Callable

from attnbench.peer import (
    Array,
    Prepared,
    Problem,
    PythonKernel,
    from_torch,
    import_all,
    to_torch,
    torch_threads,
    unserved,
)


def environment() -> str:
    if shutil.which("g++") or shutil.which("c++") or shutil.which("clang++"):
        return ""
    return "torch.compile needs a C++ compiler"


def refuse(problem: Problem) -> str:
    return unserved(
        problem,
        dtypes=("f32", "bf16"),
        patterns=("full", "local", "strided", "columns", "fixed"),
        sinks=True,
        empty_rows=False,
    )


@functools.lru_cache(maxsize=1)
def _compiled(problem: Problem, threads: int) -> tuple[Callable, object]:
    """flex_attention compiled (at its first call) for this shape and mask, and the block mask."""
    import torch
    import torch._inductor.config
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    # In this process: a pool of compiling workers would live on beside the measurement.
    torch._inductor.config.compile_threads = 1
    torch._dynamo.reset()
    block_mask = None
    if not problem.sees_all:

        def admits(batch, head, query, key):  # traced by PyTorch, therefore bare
            return problem.mask.admits(
                query * problem.query_step + problem.query_origin,
                key * problem.key_step + problem.key_origin,
            )

        block_mask = create_block_mask(
            admits, None, None, problem.queries, problem.keys, device="cpu"
        )
    return torch.compile(flex_attention, dynamic=False, fullgraph=True), block_mask


def prepare(problem: Problem, q: Array, k: Array, v: Array, threads: int) -> Prepared:
    torch_threads(threads)
    attention, block_mask = _compiled(problem, threads)
    tensors = [to_torch(t).contiguous() for t in (q, k, v)]
    arguments = {
        "block_mask": block_mask,
        "scale": problem.scale,
        "enable_gqa": problem.heads != problem.kv_heads,
    }
    last = None

    def run() -> None:
        nonlocal last
        last = attention(*tensors, **arguments)

    run()  # compiles
    return Prepared(run, lambda: from_torch(last.contiguous()))


KERNEL = PythonKernel(
    name="pytorch_flex",
    idea="PyTorch flex_attention, compiled for the shape and mask",
    packages=("torch",),
    environment=environment,
    load=lambda: import_all(
        "torch._dynamo", "torch._inductor.config", "torch.nn.attention.flex_attention"
    ),
    refuse=refuse,
    prepare=prepare,
)
