# SPDX-License-Identifier: Apache-2.0
"""PyTorch's fused CPU attention, the kernel behind scaled_dot_product_attention: blocks of queries
and keys, products by MKL or its own bf16 micro-kernels.

It aligns causal top-left, so that causal with queries != keys goes by an additive mask, as do
windows and columns: every pair is computed and masked pairs are thrown away, which is what its
users pay for them. The mask is built in prepare. The operator is called directly, because
scaled_dot_product_attention chooses between this and the unfused path by rules of its own.
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
        unequal_v_dim=False,
    )


def prepare(problem: Problem, q: Array, k: Array, v: Array, threads: int) -> Prepared:
    import torch

    torch_threads(threads)
    causal, mask = False, None
    if problem.sees_all:
        q = fold_groups(problem, q)
    elif problem.square_causal:
        causal = True
    else:
        admitted = torch.from_numpy(problem.admitted().copy())
        mask = torch.zeros(1, 1, problem.queries, problem.keys, dtype=to_torch(q).dtype)
        mask.masked_fill_(~admitted, float("-inf"))
    tensors = [to_torch(t).contiguous() for t in (q, k, v)]
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    shape = (problem.batch, problem.heads, problem.queries, problem.v_dim)
    last = None

    def run() -> None:
        nonlocal last
        last, _ = attention(*tensors, 0.0, causal, attn_mask=mask, scale=problem.scale)

    return Prepared(run, lambda: from_torch(last.contiguous()).reshape(shape))


KERNEL = PythonKernel(
    name="pytorch_sdpa",
    idea="PyTorch scaled_dot_product_attention, its fused CPU kernel",
    packages=("torch",),
    load=lambda: import_all("torch"),
    refuse=refuse,
    prepare=prepare,
)
