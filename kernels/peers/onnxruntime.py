# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's fused operators: com.microsoft.MultiHeadAttention (dense, unequal lengths) and
GroupQueryAttention (causal, windows, grouped heads). A model of one node, inputs and output bound
to memory once.

Both take Q as [batch, tokens, heads*d] and transpose it inside: part of the operator's time.
MultiHeadAttention takes K and V head-major, so that they need no transposing; GroupQueryAttention
gets them as tokens and copies them into its cache in every call. For decoding, and for the last
queries of a longer text, the earlier keys lie in the cache already, which is also the output
cache: what its users' loop does.
"""

from collections.abc import Callable

import numpy as np

from attnbench.peer import (
    Array,
    Prepared,
    Problem,
    PythonKernel,
    fastest,
    fold_groups,
    head_major,
    import_all,
    token_major,
    unserved,
)


def _grouped_reason(problem: Problem) -> str:
    """Empty, or what GroupQueryAttention does not serve."""
    if problem.v_dim != problem.head_dim:
        return "causal with v_dim other than head_dim is not served"
    if problem.head_dim % 8 != 0:
        return "causal with head_dim that is no multiple of 8 is not served"
    if problem.batch > 1 and 1 < problem.queries < problem.keys:
        return "causal with 1 < queries < keys is served for batch 1 only"
    return ""


def refuse(problem: Problem) -> str:
    reason = unserved(
        problem,
        patterns=("full", "local"),
        causal="bottom_right",
        softcap=not problem.sees_all and problem.mask.causal,
    )
    if reason:
        return reason
    if problem.mask.pattern == "local" and not problem.mask.causal:
        return "a window without causal is not served"
    return "" if problem.sees_all else _grouped_reason(problem)


def _session(node: str, inputs: dict, outputs: dict, threads: int, **attributes):
    """A session over one node. inputs, outputs: name -> shape; an empty name is an absent input."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    types = {"seqlens_k": TensorProto.INT32, "total_sequence_length": TensorProto.INT32}

    def declare(name: str, shape: tuple):
        return helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape)

    graph = helper.make_graph(
        [helper.make_node(node, list(inputs), list(outputs), domain="com.microsoft", **attributes)],
        node,
        [declare(name, shape) for name, shape in inputs.items()],
        [declare(name, shape) for name, shape in outputs.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _prepared(session, inputs: dict, outputs: dict, finish) -> Prepared:
    """inputs, outputs: name -> array that stays bound. finish: the output's array -> contract's."""
    import onnxruntime as ort

    binding = session.io_binding()
    values = {name: ort.OrtValue.ortvalue_from_numpy(a) for name, a in inputs.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    results = {
        name: values[source]
        if isinstance(source, str)
        else ort.OrtValue.ortvalue_from_numpy(source)
        for name, source in outputs.items()
    }
    for name, value in results.items():
        binding.bind_ortvalue_output(name, value)
    run = session.run_with_iobinding

    held = (values, results)  # the binding knows their memory only

    return Prepared(lambda: run(binding), lambda: finish(held[1]["output"].numpy()))


def _dense(
    problem: Problem, q: Array, k: Array, v: Array, threads: int, head_major_keys: bool
) -> Prepared:
    """MultiHeadAttention, its causal top-left. Where nothing is masked, the heads of a group become
    further queries of one head."""
    shape = (problem.batch, problem.heads, problem.queries, problem.v_dim)
    if problem.kv_heads != problem.heads:
        q = fold_groups(problem, q)
    batch, heads, queries, _ = q.shape

    def tokens(tensor: Array) -> Array:
        return token_major(tensor).reshape(tensor.shape[0], tensor.shape[2], -1)

    keys = (np.ascontiguousarray(k), np.ascontiguousarray(v))
    if not head_major_keys:
        keys = (tokens(k), tokens(v))
    inputs = {"query": tokens(q), "key": keys[0], "value": keys[1]}
    outputs = {"output": np.empty((batch, queries, heads * problem.v_dim), np.float32)}
    session = _session(
        "MultiHeadAttention",
        {name: a.shape for name, a in inputs.items()},
        {name: a.shape for name, a in outputs.items()},
        threads,
        num_heads=heads,
        scale=problem.scale,
        unidirectional=int(not problem.sees_all),
    )

    def finish(output: Array) -> Array:
        return head_major(output.reshape(batch, queries, heads, problem.v_dim)).reshape(shape)

    return _prepared(session, inputs, outputs, finish)


def _causal(problem: Problem, q: Array, k: Array, v: Array, threads: int) -> Prepared:
    """GroupQueryAttention. The first keys - queries keys are the past."""
    batch, queries, past = problem.batch, problem.queries, problem.keys - problem.queries

    def tokens(tensor: Array) -> Array:
        return token_major(tensor).reshape(batch, tensor.shape[2], -1)

    inputs = {
        "query": tokens(q),
        "key": tokens(k[:, :, past:]),
        "value": tokens(v[:, :, past:]),
        "past_key": np.ascontiguousarray(k).copy(),
        "past_value": np.ascontiguousarray(v).copy(),
        "seqlens_k": np.full(batch, problem.keys - 1, np.int32),
        "total_sequence_length": np.array(problem.keys, np.int32),
    }
    outputs = {
        "output": np.empty((batch, queries, problem.heads * problem.v_dim), np.float32),
        "present_key": "past_key",
        "present_value": "past_value",
    }
    shapes = {name: a.shape for name, a in inputs.items()}
    session = _session(
        "GroupQueryAttention",
        shapes,
        {
            "output": outputs["output"].shape,
            "present_key": shapes["past_key"],
            "present_value": shapes["past_value"],
        },
        threads,
        num_heads=problem.heads,
        kv_num_heads=problem.kv_heads,
        scale=problem.scale,
        softcap=problem.softcap,
        # Keys beside the query's own.
        local_window_size=problem.mask.window + 1 if problem.mask.pattern == "local" else -1,
    )

    def finish(output: Array) -> Array:
        return head_major(output.reshape(batch, queries, problem.heads, problem.v_dim))

    return _prepared(session, inputs, outputs, finish)


def prepare(problem: Problem, q: Array, k: Array, v: Array, threads: int) -> Prepared:
    arguments = (problem, q, k, v, threads)
    ways: dict[str, Callable[[], Prepared]] = {}
    if problem.sees_all:
        ways["keys by token"] = lambda: _dense(*arguments, head_major_keys=False)
        if problem.v_dim == problem.head_dim:
            ways["keys by head"] = lambda: _dense(*arguments, head_major_keys=True)
        if problem.queries == 1 and _grouped_reason(problem) == "":
            ways["group query"] = lambda: _causal(*arguments)
    else:
        ways["group query"] = lambda: _causal(*arguments)
        # Unfused there, but ahead while all weights fit into the caches.
        if problem.square_causal and problem.kv_heads == problem.heads and problem.softcap == 0:
            ways["unidirectional"] = lambda: _dense(*arguments, head_major_keys=False)
    return fastest(("onnxruntime", problem, threads), ways)


KERNEL = PythonKernel(
    name="onnxruntime",
    idea="ONNX Runtime MultiHeadAttention (dense) and GroupQueryAttention (causal, windows)",
    packages=("onnxruntime", "onnx"),
    load=lambda: import_all("onnx", "onnxruntime"),
    refuse=refuse,
    prepare=prepare,
)
