# SPDX-License-Identifier: Apache-2.0
"""PyTorch's unfused attention: two matrix products by MKL with the whole n x n matrix of weights
between them. What scaled_dot_product_attention falls back to, and what attention written by hand
in PyTorch costs. Memory grows with n squared.
"""

from attnbench.peer import (
    Array,
    Prepared,
    Problem,
    PythonKernel,
    fold_groups,
    from_torch,
    import_all,
    to_torch,
    torch_threads,
    unserved,
)


def refuse(problem: Problem) -> str:
    return unserved(
        problem,
        dtypes=("f32", "bf16"),
        patterns=("full", "local", "strided", "columns", "fixed"),
        sinks=True,
        empty_rows=False,
    )


def prepare(problem: Problem, q: Array, k: Array, v: Array, threads: int) -> Prepared:
    import torch

    torch_threads(threads)
    mask = None
    if problem.sees_all:
        q = fold_groups(problem, q)
    else:
        # Given as the numbers to add: from booleans the operator would make them in every call.
        admitted = torch.from_numpy(problem.admitted().copy())
        mask = torch.zeros(problem.queries, problem.keys, dtype=to_torch(q).dtype)
        mask.masked_fill_(~admitted, float("-inf"))
    tensors = [to_torch(t).contiguous() for t in (q, k, v)]
    grouped = tensors[0].shape[1] != tensors[1].shape[1]
    attention = torch.ops.aten._scaled_dot_product_attention_math.default
    shape = (problem.batch, problem.heads, problem.queries, problem.v_dim)
    last = None

    def run() -> None:
        nonlocal last
        last, _ = attention(*tensors, mask, scale=problem.scale, enable_gqa=grouped)

    return Prepared(run, lambda: from_torch(last.contiguous()).reshape(shape))


KERNEL = PythonKernel(
    name="pytorch_math",
    idea="PyTorch's unfused attention: two matrix products, all weights in memory",
    packages=("torch",),
    load=lambda: import_all("torch"),
    refuse=refuse,
    prepare=prepare,
)
