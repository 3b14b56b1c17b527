# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's ScaledDotProductAttention operator, compiled for the CPU with static and with dynamic
shapes, which take different paths inside; the faster one here is measured. Its inputs are the
contract's layout, its output goes into memory bound once. Causal is top-left.
"""

import sys

import numpy as np

from attnbench.peer import (
    Array,
    Prepared,
    Problem,
    PythonKernel,
    fastest,
    fold_groups,
    import_all,
    unserved,
)


def refuse(problem: Problem) -> str:
    reason = unserved(problem, dtypes=("f32", "bf16"), causal="square")
    if not reason and problem.kv_heads != problem.heads and not problem.sees_all:
        return "causal with kv_heads other than heads is not served"
    return reason


def load() -> None:
    # Its telemetry would send usage reports, from a process forked off the measuring one: without
    # the package, OpenVINO does without.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import_all("openvino")


def _compiled(
    problem: Problem, inputs: list[Array], out: Array, threads: int, static: bool
) -> Prepared:
    import openvino as ov
    from openvino import opset13

    kind = ov.Type.bf16 if problem.dtype == "bf16" else ov.Type.f32

    def tensor(array: Array) -> ov.Tensor:
        if problem.dtype == "bf16":
            return ov.Tensor(array.view(np.uint16), ov.Shape(array.shape), kind)
        return ov.Tensor(array, shared_memory=True)

    parameters = [
        opset13.parameter(list(t.shape) if static else [-1, -1, -1, t.shape[-1]], kind)
        for t in inputs
    ]
    scale = opset13.convert(opset13.constant(np.float32(problem.scale)), problem.dtype)
    attention = opset13.scaled_dot_product_attention(
        *parameters, scale=scale, causal=not problem.sees_all
    )
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": problem.dtype,
        # The harness pins the process; a second pinning would fight it.
        "ENABLE_CPU_PINNING": False,
    }
    model = ov.Model([attention], parameters, "attention")
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    for index, array in enumerate(inputs):
        request.set_input_tensor(index, tensor(array))
    request.set_output_tensor(0, tensor(out))
    # Past the wrapper, which would copy the output into a dictionary of arrays.
    infer = super(ov.InferRequest, request).infer
    held = (*inputs, out)  # the request knows their memory only

    return Prepared(lambda: infer({}, True, True), lambda: held[-1])


def prepare(problem: Problem, q: Array, k: Array, v: Array, threads: int) -> Prepared:
    load()
    shape = (problem.batch, problem.heads, problem.queries, problem.v_dim)
    if problem.sees_all:
        q = fold_groups(problem, q)
    inputs = [np.ascontiguousarray(t) for t in (q, k, v)]
    out = np.empty((*q.shape[:3], problem.v_dim), q.dtype)
    chosen = fastest(
        ("openvino", problem, threads),
        {
            "static": lambda: _compiled(problem, inputs, out, threads, static=True),
            "dynamic": lambda: _compiled(problem, inputs, out, threads, static=False),
        },
    )
    return Prepared(chosen.run, lambda: chosen.output().reshape(shape))


KERNEL = PythonKernel(
    name="openvino",
    idea="OpenVINO ScaledDotProductAttention, static or dynamic shapes, whichever is faster",
    packages=("openvino",),
    load=load,
    refuse=refuse,
    prepare=prepare,
)
