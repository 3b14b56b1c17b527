# SPDX-License-Identifier: Apache-2.0
"""AMD's zentorch: the operator that it puts in the place of PyTorch's attention on Zen CPUs.

Only its library is loaded: importing the package would also rewrite operators of PyTorch, and the
other peers in this process with them. The operator needs AVX-512 (for bf16 its bf16 dots, else it
goes through float32).
"""

import importlib.util
from pathlib import Path

from attnbench.peer import (
    Array,
    Prepared,
    Problem,
    PythonKernel,
    fold_groups,
    from_torch,
    to_torch,
    torch_threads,
    unserved,
)


def environment() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "" if "avx512f" in flags else "zentorch's attention needs AVX-512"


def refuse(problem: Problem) -> str:
    return unserved(problem, dtypes=("f32", "bf16"), causal="square", unequal_v_dim=False)


def load() -> None:
    import torch

    package = importlib.util.find_spec("zentorch")
    torch.ops.load_library(str(Path(package.origin).parent / "libzentorch.so"))


def prepare(problem: Problem, q: Array, k: Array, v: Array, threads: int) -> Prepared:
    import torch

    torch_threads(threads)
    load()
    causal = not problem.sees_all
    if not causal:
        q = fold_groups(problem, q)
    tensors = [to_torch(t).contiguous() for t in (q, k, v)]
    attention = torch.ops.zentorch.zentorch_sdpa.default
    shape = (problem.batch, problem.heads, problem.queries, problem.v_dim)
    last = None

    def run() -> None:
        nonlocal last
        last, _ = attention(*tensors, 0.0, causal, scale=problem.scale)

    return Prepared(run, lambda: from_torch(last.contiguous()).reshape(shape))


KERNEL = PythonKernel(
    name="zentorch",
    idea="AMD zentorch's scaled_dot_product_attention for Zen CPUs",
    packages=("torch", "zentorch"),
    environment=environment,
    load=load,
    refuse=refuse,
    prepare=prepare,
)
