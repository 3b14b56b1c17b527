# SPDX-License-Identifier: Apache-2.0
"""vLLM's CPU attention (vllm_cpu.py) with the writing of K and V into its cache: what a layer pays
when a prompt comes in. In decoding a layer writes one key only, so nothing but whole prompts is
served here.
"""

from attnbench.peer import Array, Prepared, Problem, PythonKernel, load_peer

_vllm = load_peer("vllm_cpu")


def refuse(problem: Problem) -> str:
    if problem.queries < problem.keys:
        return "fewer queries than keys are not served: their keys lie in the cache already"
    return _vllm.refuse(problem)


def prepare(problem: Problem, q: Array, k: Array, v: Array, threads: int) -> Prepared:
    return _vllm.prepare_with(problem, q, k, v, threads, write=True)


KERNEL = PythonKernel(
    name="vllm_cpu_write",
    idea="vLLM's CPU attention, writing K and V into its cache included",
    packages=_vllm.KERNEL.packages,
    load=_vllm.load,
    refuse=refuse,
    prepare=prepare,
)
