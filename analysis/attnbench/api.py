# SPDX-License-Identifier: Apache-2.0
"""The kernels as Python functions, thin over the extension ``attnbench._core``.

Tensors of other libraries are read in place (torch, bfloat16 included, and DLPack); torch tensors
in, torch tensors out. The GIL is released while a kernel runs.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

try:
    from attnbench import _core
except ImportError as error:
    raise ImportError(
        f"the extension attnbench._core cannot be loaded ({error}); ./attnbench setup builds it"
    ) from None

from attnbench.exchange import exchanged

Array = np.ndarray


def _integer(name: str, value: Any) -> int | None:
    try:
        return None if value is None else operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: must be an integer, is {value!r}") from None


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: must be a number, is {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}: must be finite, is {number}")
    return number


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of ``_core.attention``, each of its type."""
    for name in ("window", "stride", "offset", "columns", "sinks", "tile", "threads"):
        if name in given:
            given[name] = _integer(name, given[name])
    for name in ("scale", "softcap"):
        if name in given:
            given[name] = _number(name, given[name])
    for name in ("kernel", "pattern", "score"):
        if given.get(name) is not None and not isinstance(given[name], str):
            raise ValueError(f"{name}: must be a string, is {given[name]!r}")
    if not isinstance(given.get("causal", False), bool | np.bool_):
        raise ValueError(f"causal: must be True or False, is {given['causal']!r}")
    return given


@exchanged
def attention(
    q: Array,
    k: Array,
    v: Array,
    kernel: str = "flash",
    causal: bool = False,
    pattern: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    sinks: int = 0,
    scale: float | None = None,
    threads: int = 1,
    *,
    offset: int | None = None,
    columns: int | None = None,
    tile: int | None = None,
    tiles: Array | None = None,
    softcap: float = 0.0,
    bias: Array | None = None,
    key_lengths: Array | None = None,
    options: dict[str, int] | None = None,
    return_lse: bool = False,
) -> Any:  # an array, or two with return_lse
    """softmax(scale * q k^T + bias, over the admitted keys) v.

    Args:
        q: queries ``[B, H, n, d]``, ``[H, n, d]`` or ``[n, d]``, float32 or bfloat16.
        k: keys ``[B, G, m, d]``; G divides H (grouped-query attention).
        v: values ``[B, G, m, dv]``.
        kernel: a name of ``kernels()``; "auto" takes the first that serves the problem.
        causal: cut keys after the query's position; the last query sees all keys.
        pattern: "full", "local" (``window`` keys each side: a half-width, Longformer's w is twice
            that), "strided" or "columns" (Child et al. 2019: every ``stride``-th, and the
            neighbourhood), "fixed" or "tiles". By default "tiles" or "local" where tiles or a window
            are given, else "full".
        stride: of "strided", "columns" and "fixed". offset: of "columns", by default stride - 1.
        columns: of "fixed": how many at the end of each block.
        tiles: of "tiles": bool ``[rows, columns]``, which tiles of ``tile`` queries by ``tile`` keys
            are admitted; ``attnbench.tiles`` makes some.
        sinks: keys 0 ... sinks - 1 are admitted too.
        scale: of the logits; by default 1/sqrt(d).
        threads: OpenMP threads.
        softcap: c > 0 passes the logits through c tanh(x / c).
        bias: float32, broadcasts to ``[B, H, n, m]``, added to the logits.
        key_lengths: ``[B]`` integers; keys at and beyond them are never read.
        options: the kernel's own, by name.
        return_lse: also return the logits' log-sum-exp, float32 ``[B, H, n]``.

    Returns:
        ``[B, H, n, dv]`` in the inputs' dtype, with as many dimensions as q.

    Raises:
        ValueError: naming the argument, where a shape, a dtype or a value is wrong, or the kernel
            refuses the problem.

    Source: Vaswani et al. 2017, eq. 1.

    Example:
        >>> import numpy as np, attnbench
        >>> q = k = v = np.eye(2, 4, dtype=np.float32)
        >>> attnbench.attention(q, k, v, causal=True).round(3)  # the first query sees key 0 only
        array([[1.   , 0.   , 0.   , 0.   ],
               [0.378, 0.622, 0.   , 0.   ]], dtype=float32)
    """
    parameters = _parameters(
        {
            "kernel": kernel, "causal": causal, "pattern": pattern, "window": window,
            "stride": stride, "sinks": sinks, "scale": scale, "threads": threads,
            "offset": offset, "columns": columns, "tile": tile, "softcap": softcap,
        }
    )  # fmt: skip
    return _core.attention(
        q, k, v, **parameters, tiles=tiles, bias=bias, key_lengths=key_lengths, options=options or {},
        return_lse=return_lse,
    )  # fmt: skip


def tiles(
    queries: int,
    keys: int,
    *,
    tile: int,
    band: int = -1,
    dilation: int = 1,
    global_tiles: int = 0,
    random_tiles: int = 0,
    causal: bool = False,
) -> Array:
    """Tiles as experiment files make them for pattern "tiles": bool ``[rows, columns]``.

    Args:
        tile: queries and keys to a tile; all else counts tiles.
        band: tiles to each side of a row's own, ``dilation`` apart; -1 is no tile, not its own.
        global_tiles: the first tiles, which all rows have and whose own rows have all.
        random_tiles: so many more a row, drawn of those that it lacks; where causal, not of later ones.

    Raises:
        ValueError: naming the argument.

    Source: Zaheer et al. 2020 (BigBird), Beltagy et al. 2020 (Longformer: global, dilated).

    Example:
        >>> import attnbench
        >>> attnbench.tiles(8, 8, tile=2, band=1).astype(int)
        array([[1, 1, 0, 0],
               [1, 1, 1, 0],
               [0, 1, 1, 1],
               [0, 0, 1, 1]])
    """
    given = {"queries": queries, "keys": keys, "tile": tile, "band": band, "dilation": dilation,
             "global_tiles": global_tiles, "random_tiles": random_tiles}  # fmt: skip
    numbers: dict[str, Any] = {name: _integer(name, value) for name, value in given.items()}
    return _core.tiles(**numbers, causal=causal)


@exchanged
def attention_weights(q: Array, k: Array, kernel: str = "auto", **parameters: Any) -> Array:
    """The weights themselves: float32 ``[B, H, n, m]``, rows sum to one, zero where masked.

    Takes q, k and the parameters of ``attention``; a row that admits no key is all zero. Kernels
    that never form the weights refuse; "auto" finds one that does.

    Raises:
        ValueError: naming the argument.

    Source: Vaswani et al. 2017, eq. 1.

    Example:
        >>> import numpy as np, attnbench
        >>> q = k = np.eye(2, 4, dtype=np.float32)
        >>> attnbench.attention_weights(q, k).round(3)
        array([[0.622, 0.378],
               [0.378, 0.622]], dtype=float32)
    """
    given = _parameters({"kernel": kernel, **parameters})
    return _core.attention(q, k, k, **given, return_weights=True)[1]


def _with_weights(q: Array, k: Array, v: Array, **given: Any) -> tuple[Array, Array]:
    """Output and weights; the weights by another kernel where the one named never forms them."""
    kernel = given.get("kernel", "auto")
    found = next((info for info in _core.kernels() if info["name"] == kernel), None)
    if found is None or "weights" in found["provides"]:
        return _core.attention(q, k, v, **given, return_weights=True)
    output = _core.attention(q, k, v, **given)
    return output, _core.attention(q, k, k, **dict(given, kernel="auto"), return_weights=True)[1]


def _matrix(name: str, array: Any, ndims: tuple[int, ...], columns: int | None = None) -> Array:
    array = np.asarray(array)
    if array.dtype != np.float32:
        raise ValueError(f"{name}: dtype must be float32, is {array.dtype}")
    if array.ndim not in ndims:
        wanted = " or ".join(str(n) for n in ndims)
        raise ValueError(f"{name}: must have {wanted} dimensions, has shape {list(array.shape)}")
    if columns is not None and array.shape[0] != columns:
        raise ValueError(f"{name}: must have {columns} rows, has shape {list(array.shape)}")
    return array


def _encoder_decoder(states: Any, encoder_states: Any) -> tuple[Array, Array, Array]:
    """Queries, keys and values; the narrower of states and keys is widened by zeros, which add
    nothing to any product."""
    q, h = _matrix("states", states, (2, 3)), _matrix("encoder_states", encoder_states, (2, 3))
    if q.ndim != h.ndim or q.shape[:-2] != h.shape[:-2]:
        raise ValueError(
            f"encoder_states: batch must be that of states {list(q.shape)}, is {list(h.shape)}"
        )
    width = max(q.shape[-1], h.shape[-1])

    def widen(a: Array) -> Array:
        return np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, width - a.shape[-1])])

    # [n, d] is one head already; [B, n, d] gets an axis for it.
    q, k, v = widen(q), widen(h), h
    return (q, k, v) if h.ndim == 2 else (q[:, None], k[:, None], v[:, None])


def _one_head(ndim: int, context: Array, weights: Array) -> tuple[Array, Array]:
    return (context, weights) if ndim == 2 else (context[:, 0], weights[:, 0])


@exchanged
def luong_attention(
    states: Array,
    encoder_states: Array,
    score: str = "dot",
    w: Array | None = None,
    v: Array | None = None,
    kernel: str = "auto",
    threads: int = 1,
) -> tuple[Array, Array]:
    """Global attention of Luong et al. 2015, section 3.1; encoder states are keys and values.

    Args:
        states: decoder states s, float32 ``[m, ds]`` or ``[B, m, ds]``.
        encoder_states: h, ``[n, de]`` or ``[B, n, de]``.
        score: "dot" s.h (ds = de) | "general" s W h, w ``[ds, de]`` | "concat"
            v tanh(W [s; h]), w ``[hidden, ds + de]``, v ``[hidden]`` | "location" softmax(W s),
            w ``[n, ds]``.

    Returns:
        Context vectors ``[m, de]`` and weights ``[m, n]``, each with B in front where given.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import numpy as np, attnbench
        >>> words = np.eye(3, 4, dtype=np.float32)  # three encoder states
        >>> context, weights = attnbench.luong_attention(2 * words[1:2], words)
        >>> weights.round(3)  # a decoder state like the second word's looks at it most
        array([[0.107, 0.787, 0.107]], dtype=float32)
    """
    q, k, values = _encoder_decoder(states, encoder_states)
    ds, de, width = np.shape(states)[-1], np.shape(encoder_states)[-1], q.shape[-1]
    if score not in ("dot", "general", "concat", "location"):
        raise ValueError(f"score: must be dot, general, concat or location, is {score!r}")
    if score == "dot":
        if w is not None or v is not None:
            raise ValueError(f"{'v' if w is None else 'w'}: score 'dot' has no weights")
        if ds != de:
            raise ValueError(f"states: score 'dot' needs encoder_states' {de} columns, has {ds}")
    else:
        if w is None:
            raise ValueError(f"w: score {score!r} needs it")
        w = _matrix("w", w, (2,))
        wanted = {
            "general": (ds, de),
            "concat": (w.shape[0], ds + de),
            "location": (k.shape[-2], ds),
        }[score]
        if w.shape != wanted:
            raise ValueError(f"w: must be {list(wanted)}, is {list(w.shape)}")
        if score == "general":
            w = np.pad(w, [(0, width - ds), (0, width - de)])
        elif score == "location":
            w = np.pad(w, [(0, 0), (0, width - ds)])
        else:
            halves = (w[:, :ds], w[:, ds:])
            w = np.hstack([np.pad(x, [(0, 0), (0, width - x.shape[1])]) for x in halves])
    if score == "concat":
        if v is None or w is None:
            raise ValueError("v: score 'concat' needs it")
        v = _matrix("v", v, (1,), w.shape[0])
    elif v is not None:
        raise ValueError(f"v: score {score!r} does not use it")
    given = _parameters({"kernel": kernel, "score": score, "threads": threads})
    found = _with_weights(q, k, values, **given, w=w, v_score=v)
    return _one_head(np.ndim(states), *found)


@exchanged
def bahdanau_attention(
    states: Array,
    encoder_states: Array,
    w: Array,
    u: Array,
    v: Array,
    kernel: str = "auto",
    threads: int = 1,
) -> tuple[Array, Array]:
    """Additive attention of Bahdanau et al. 2014, A.1.2: score v . tanh(s w + h u).

    Args:
        states: decoder states s, float32 ``[m, ds]`` or ``[B, m, ds]``.
        encoder_states: h, ``[n, de]`` or ``[B, n, de]``: keys and values.
        w: ``[ds, hidden]``. u: ``[de, hidden]``. v: ``[hidden]``.

    Returns:
        Context vectors ``[m, de]`` and weights ``[m, n]``, each with B in front where given.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import numpy as np, attnbench
        >>> words, w = np.eye(3, 4, dtype=np.float32), np.eye(4, dtype=np.float32)
        >>> v = np.array([0, 3, 0, 0], np.float32)  # this network listens to column 1 only
        >>> context, weights = attnbench.bahdanau_attention(words[:1], words, w, w, v)
        >>> weights.round(3)
        array([[0.085, 0.831, 0.085]], dtype=float32)
    """
    q, k, values = _encoder_decoder(states, encoder_states)
    v = _matrix("v", v, (1,))
    maps = {}
    for name, array, rows in (("w", w, np.shape(states)[-1]), ("u", u, values.shape[-1])):
        array = _matrix(name, array, (2,), rows)
        if array.shape[1] != v.shape[0]:
            raise ValueError(
                f"{name}: must have v's {v.shape[0]} columns, has shape {list(array.shape)}"
            )
        maps[name] = np.ascontiguousarray(np.pad(array, [(0, q.shape[-1] - rows), (0, 0)]).T)
    given = _parameters({"kernel": kernel, "threads": threads})
    found = _with_weights(q, k, values, **given, score="additive", **maps, v_score=v)
    return _one_head(np.ndim(states), *found)


def kernels() -> list[dict[str, Any]]:
    """Every kernel of the registry: name, idea, host, provides, options, target."""
    return _core.kernels()
