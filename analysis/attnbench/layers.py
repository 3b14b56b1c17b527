# SPDX-License-Identifier: Apache-2.0
"""Layers as Python functions, thin over the extension: X ``[n, model]`` -> Y ``[n, out]``.

Every sequence may have a batch in front, ``[B, n, model]``; everything is float32.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from attnbench.api import Array, _core, _integer, _matrix, _parameters
from attnbench.exchange import exchanged


@exchanged
def self_attention(
    x: Array,
    wq: Array,
    wk: Array,
    wv: Array,
    wo: Array | None = None,
    heads: int = 1,
    causal: bool = False,
    kernel: str = "flash",
    threads: int = 1,
) -> tuple[Array, Array]:
    """Self-attention of one sequence over itself (Vaswani et al. 2017, 3.2).

    Q = x wq, K = x wk, V = x wv, split into heads; the heads' outputs side by side, times wo.

    Args:
        x: ``[n, model]`` or ``[B, n, model]``.
        wq, wk: ``[model, heads * d]``. wv: ``[model, heads * dv]``. wo: ``[heads * dv, out]``.
        kernel: the attention inside, a name of ``kernels()`` or "auto".

    Returns:
        The output ``[n, out]`` (``heads * dv`` without wo) and the weights ``[heads, n, n]``, each
        with B in front where x has it.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import numpy as np, attnbench
        >>> x = np.eye(3, 4, dtype=np.float32)  # three tokens
        >>> w = np.eye(4, dtype=np.float32)
        >>> y, weights = attnbench.self_attention(x, w, w, w)
        >>> weights.round(3)[0]  # each token looks at itself most
        array([[0.452, 0.274, 0.274],
               [0.274, 0.452, 0.274],
               [0.274, 0.274, 0.452]], dtype=float32)
    """
    return multi_head_attention(
        x, wq, wk, wv, wo, heads, causal=causal, kernel=kernel, threads=threads
    )


@exchanged
def multi_head_attention(
    x: Array,
    wq: Array,
    wk: Array,
    wv: Array,
    wo: Array | None,
    heads: int,
    memory: Array | None = None,
    kv_heads: int | None = None,
    causal: bool = False,
    pattern: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    sinks: int = 0,
    encoding: str = "none",
    positions: Array | None = None,
    kernel: str = "flash",
    threads: int = 1,
    *,
    offset: int | None = None,
    columns: int | None = None,
    scale: float | None = None,
) -> tuple[Array, Array]:
    """The attention layer with all that it can have (Vaswani et al. 2017, 3.2.2).

    Args:
        x: ``[n, model]`` or ``[B, n, model]``.
        wq: ``[model, heads * d]``. wk: ``[model, kv_heads * d]``. wv: ``[model, kv_heads * dv]``.
            wo: ``[heads * dv, out]``; None leaves the heads' outputs side by side.
        memory: a second sequence ``[m, model]`` to attend over: cross-attention.
        kv_heads: divides heads (grouped-query attention; 1: multi-query); by default heads.
        causal, pattern, window, stride, sinks, offset, columns, scale: as ``attention`` has them.
        encoding: "none", "sinusoidal" or "learned" (added to the sequences), "rotary" (turns
            queries and keys), "alibi" (a penalty on distance).
        positions: of "learned", ``[max(n, m), model]``.
        kernel: the attention inside, a name of ``kernels()`` or "auto".

    Returns:
        The output ``[n, out]`` and the weights ``[heads, n, m]``, each with B in front where x has
        it.

    Raises:
        ValueError: naming the argument; also where the kernel refuses what it would have to do.

    Example:
        >>> import numpy as np, attnbench
        >>> random = np.random.default_rng(0).standard_normal
        >>> x, w = (random(shape, dtype=np.float32) for shape in ((5, 8), (8, 8)))
        >>> y, weights = attnbench.multi_head_attention(x, w, w, w, w, heads=2, causal=True)
        >>> y.shape, weights.shape, float(weights[0, 0, 0])  # the first token sees itself only
        ((5, 8), (2, 5, 5), 1.0)
    """
    x = _matrix("x", x, (2, 3))
    count = _positive("heads", heads)
    groups = count if kv_heads is None else _positive("kv_heads", kv_heads)
    if count % groups:
        raise ValueError(f"kv_heads: {groups} do not divide the {count} heads")
    shared = {"wq": (wq, count), "wk": (wk, groups), "wv": (wv, groups)}
    weights, widths = [], {}
    for name, (w, parts) in shared.items():
        matrix = _matrix(name, w, (2,), x.shape[-1])
        if matrix.shape[1] % parts:
            raise ValueError(f"heads: {parts} do not divide {name}'s {matrix.shape[1]} columns")
        weights.append(matrix)
        widths[name] = matrix.shape[1] // parts
    if widths["wq"] != widths["wk"]:
        raise ValueError(f"wk: must have {widths['wq']} columns a head as wq, has {widths['wk']}")
    out = count * widths["wv"]
    if wo is not None:
        wo = _matrix("wo", wo, (2,), out)
        weights.append(wo)
        out = wo.shape[1]
    if (positions is not None) != (encoding == "learned"):
        raise ValueError("positions: belong to encoding 'learned', which needs them")
    if positions is not None:
        weights.append(positions)
    given = _parameters(
        {
            "causal": causal, "pattern": pattern, "window": window, "stride": stride,
            "sinks": sinks, "offset": offset, "columns": columns, "scale": scale,
            "threads": threads, "kernel": kernel,
        }
    )  # fmt: skip
    given["attention"] = given.pop("kernel")
    try:
        return _core.layer(
            "self_attention", x, weights, memory, **given, heads=count, kv_heads=groups,
            head_dim=widths["wq"], v_dim=widths["wv"], d_out=out, encoding=encoding,
            options={"output_projection": int(wo is not None)}, return_weights=True,
        )  # fmt: skip
    except ValueError as error:  # the layer's name for it
        raise ValueError(re.sub("^attention:", "kernel:", str(error))) from None


@exchanged
def rnn(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    threads: int = 1,
) -> Array:
    """A plain recurrent layer, h_t = tanh(w_ih x_t + b_ih + w_hh h_{t-1} + b_hh) (Elman 1990).

    Args:
        x: ``[n, model]`` or ``[B, n, model]``.
        w_ih: ``[hidden, model]``. w_hh: ``[hidden, hidden]``. b_ih, b_hh: ``[hidden]``, by default
            zero. As ``torch.nn.RNN`` has them.

    Returns:
        h_1 ... h_n, ``[n, hidden]``, with B in front where x has it; h_0 is zero.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import numpy as np, attnbench
        >>> one = np.ones((1, 1), np.float32)
        >>> attnbench.rnn(np.zeros((2, 1), np.float32), one, one, b_ih=one[0]).round(3)[:, 0]
        array([0.762, 0.943], dtype=float32)
    """
    return _recurrent("rnn", 1, x, w_ih, w_hh, b_ih, b_hh, threads)


@exchanged
def lstm(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    threads: int = 1,
) -> Array:
    """A long short-term memory layer (Hochreiter, Schmidhuber 1997; forget gate: Gers et al. 2000).

    i, f, g, o = w_ih x_t + b_ih + w_hh h_{t-1} + b_hh in four parts, c = sigmoid(f) c + sigmoid(i)
    tanh(g), h = sigmoid(o) tanh(c).

    Args:
        x: ``[n, model]`` or ``[B, n, model]``.
        w_ih: ``[4 * hidden, model]``. w_hh: ``[4 * hidden, hidden]``. b_ih, b_hh: ``[4 * hidden]``,
            by default zero. As ``torch.nn.LSTM`` has them.

    Returns:
        h_1 ... h_n, ``[n, hidden]``, with B in front where x has it; h_0 and c_0 are zero.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import numpy as np, attnbench
        >>> random = np.random.default_rng(0).standard_normal
        >>> x, w, u = (random(shape, dtype=np.float32) for shape in ((6, 3), (8, 3), (8, 2)))
        >>> attnbench.lstm(x, w, u).shape
        (6, 2)
    """
    return _recurrent("lstm", 4, x, w_ih, w_hh, b_ih, b_hh, threads)


@exchanged
def gru(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
    threads: int = 1,
) -> Array:
    """A gated recurrent layer (Cho et al. 2014; the reset gate after the product, as in PyTorch).

    r, z, n in three parts: n = tanh(w_n x + b_n + sigmoid(r) (u_n h + b'_n)), h = (1 - sigmoid(z)) n
    + sigmoid(z) h.

    Args:
        x: ``[n, model]`` or ``[B, n, model]``.
        w_ih: ``[3 * hidden, model]``. w_hh: ``[3 * hidden, hidden]``. b_ih, b_hh: ``[3 * hidden]``,
            by default zero. As ``torch.nn.GRU`` has them.

    Returns:
        h_1 ... h_n, ``[n, hidden]``, with B in front where x has it; h_0 is zero.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import numpy as np, attnbench
        >>> random = np.random.default_rng(0).standard_normal
        >>> x, w, u = (random(shape, dtype=np.float32) for shape in ((6, 3), (6, 3), (6, 2)))
        >>> attnbench.gru(x, w, u).shape
        (6, 2)
    """
    return _recurrent("gru", 3, x, w_ih, w_hh, b_ih, b_hh, threads)


def _positive(name: str, value: Any) -> int:
    number = _integer(name, value)
    if number is None or number < 1:
        raise ValueError(f"{name}: must be at least 1, is {value}")
    return number


def _recurrent(
    name: str, gates: int, x: Array, w_ih: Array, w_hh: Array, b_ih: Array | None,
    b_hh: Array | None, threads: int,
) -> Array:  # fmt: skip
    """The layer takes its matrices transposed, a row an input; biases as one row."""
    x, w_hh, w_ih = (
        _matrix("x", x, (2, 3)),
        _matrix("w_hh", w_hh, (2,)),
        _matrix("w_ih", w_ih, (2,)),
    )
    hidden = w_hh.shape[1]
    for matrix_name, matrix, columns in (("w_hh", w_hh, hidden), ("w_ih", w_ih, x.shape[-1])):
        if matrix.shape != (gates * hidden, columns):
            wanted = [gates * hidden, columns]
            raise ValueError(f"{matrix_name}: must be {wanted}, is {list(matrix.shape)}")
    biases = []
    for bias_name, bias in (("b_ih", b_ih), ("b_hh", b_hh)):
        if bias is None:
            bias = np.zeros(gates * hidden, np.float32)
        biases.append(_matrix(bias_name, bias, (1,), gates * hidden)[None])
    count = _positive("threads", threads)
    return _core.layer(name, x, [w_ih.T, w_hh.T, *biases], d_out=hidden, threads=count)
