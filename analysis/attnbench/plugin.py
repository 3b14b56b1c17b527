# SPDX-License-Identifier: Apache-2.0
"""Kernels written in Python: a decorated function in a file given by ``--plugin kernel.py``.

::

    import attnbench

    @attnbench.kernel(
        name="two_einsums", idea="softmax between two einsums",
        refuse=attnbench.serves(dtypes=("f32",), patterns=("full",), causal="none"),
    )
    def two_einsums(q, k, v, problem):
        ...
        return out

It is checked against the oracle and timed by the loop of the C++ kernels, and marked
``host = python`` in the records. Nothing is computed when the file is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from attnbench import peer
from attnbench.peer import Array, Prepared, Problem, PythonKernel

__all__ = ["Problem", "kernel", "load", "serves"]

# q [batch, heads, queries, head_dim], k [batch, kv_heads, keys, head_dim],
# v [batch, kv_heads, keys, v_dim], problem -> [batch, heads, queries, v_dim]
Function = TypeVar("Function", bound=Callable[..., Any])

_declared: list[PythonKernel] = []


def serves(
    *, dtypes: Sequence[str] = ("f32",), patterns: Sequence[str] = ("full",), causal: str = "none",
    grouped_heads: bool = False, **claims: bool,
) -> Callable[[Problem], str]:  # fmt: skip
    """A ``refuse`` from claims: what they leave out is refused, by name.

    Args:
        dtypes: of "f32", "bf16".
        patterns: of "full", "local", "strided", "columns", "fixed".
        causal: "none"; "square" (as many queries as keys); "bottom_right" (the last query stands at
            the last key); "any" (``problem.admitted()`` is what the function goes by).
        grouped_heads: fewer kv_heads than heads, each shared by neighbours.
        claims: unequal_v_dim and scale (other than 1/sqrt(head_dim)), both served unless False;
            softcap and sinks, both refused unless True.

    >>> import attnbench
    >>> claims = attnbench.serves(dtypes=("f32", "bf16"), causal="any", softcap=True)
    >>> attnbench.serves(dtypes=("f64",))
    Traceback (most recent call last):
    ValueError: dtypes: 'f64' is none of f32, bf16
    """
    known = ("unequal_v_dim", "scale", "softcap", "sinks")
    for name, given, allowed in (
        ("dtypes", dtypes, ("f32", "bf16")),
        ("patterns", patterns, ("full", "local", "strided", "columns", "fixed")),
        ("causal", (causal,), ("none", "square", "bottom_right", "any")),
        ("claims", tuple(claims), known),
    ):
        for value in given:
            if value not in allowed:
                raise ValueError(f"{name}: {value!r} is none of {', '.join(allowed)}")
    return lambda problem: peer.unserved(
        problem,
        dtypes=dtypes,
        patterns=patterns,
        causal=causal,
        grouped_heads=grouped_heads,
        **claims,
    )


def kernel(
    *, name: str, idea: str, refuse: Callable[[Problem], str] | None = None,
    tensors: Literal["numpy", "torch"] = "numpy", packages: Sequence[str] = (),
) -> Callable[[Function], Function]:  # fmt: skip
    """Declares a kernel: a function, or anything that can be called as one (a torch module).

    The function gets ``(q, k, v, problem)``: views of the harness's memory, not to be written to,
    and the ``Problem``; it returns a new ``[batch, heads, queries, v_dim]`` in the inputs' dtype.
    All that it does is timed.

    Args:
        name: lower_case, no other kernel's.
        idea: one line for lists and legends.
        refuse: empty when the kernel solves this problem exactly, else the reason; see ``serves``.
            By default dense float32 attention, without a mask, is all that is served.
        tensors: "numpy" arrays (bfloat16 by ml_dtypes), or "torch" tensors on the same memory.
        packages: distributions that it needs, as pip names them; refused where one is missing.

    Raises:
        ValueError: naming the argument.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"name: must be lower_case letters, digits and underscores, is {name!r}")
    if not isinstance(idea, str) or not idea or "\n" in idea:
        raise ValueError(f"idea: must be one line, is {idea!r}")
    if tensors not in ("numpy", "torch"):
        raise ValueError(f"tensors: must be 'numpy' or 'torch', is {tensors!r}")
    needed = ("torch", *packages) if tensors == "torch" else tuple(packages)

    def declare(function: Function) -> Function:
        if not callable(function):
            raise ValueError(f"kernel {name}: must be callable, is {type(function).__name__}")

        def prepare(problem: Problem, q: Array, k: Array, v: Array, threads: int) -> Prepared:
            return _prepared(name, function, tensors, problem, (q, k, v), threads)

        load = (lambda: peer.import_all("torch")) if tensors == "torch" else None
        _declared.append(
            PythonKernel(
                name, idea, refuse or serves(), prepare, tuple(dict.fromkeys(needed)), load
            )
        )
        return function

    return declare


def _prepared(
    name: str, function: Callable[..., Any], tensors: str, problem: Problem,
    arrays: tuple[Array, Array, Array], threads: int,
) -> Prepared:  # fmt: skip
    inputs: tuple[Any, ...] = arrays
    if tensors == "torch":
        peer.torch_threads(threads)
        inputs = tuple(map(peer.to_torch, arrays))
    last: Any = None

    def run() -> None:
        nonlocal last
        last = function(*inputs, problem)

    def output() -> Array:
        made = last
        if tensors == "torch" and hasattr(made, "detach"):
            made = peer.from_torch(made.detach().contiguous())
        wanted = (problem.batch, problem.heads, problem.queries, problem.v_dim)
        if not isinstance(made, np.ndarray):
            raise ValueError(f"{name}: must return an array, returned {type(made).__name__}")
        if made.shape != wanted or made.dtype != arrays[0].dtype:
            raise ValueError(
                f"{name}: must return {list(wanted)} {arrays[0].dtype}, returned"
                f" {list(made.shape)} {made.dtype}"
            )
        return made

    return Prepared(run, output)


def load(path: str | Path) -> list[PythonKernel]:
    """The kernels of a file, in order: those it declares, and its ``KERNEL`` if it has one.

    Raises ValueError, in one line, where the file cannot be run or declares no kernel.
    """
    path = Path(path).resolve()
    name = f"attnbench_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError("no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look
    before = len(_declared)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"cannot be loaded: {_where(error, path)}{_line(error)}") from error
    found = _declared[before:]
    if isinstance(own := getattr(module, "KERNEL", None), PythonKernel):
        found.append(own)
    if not found:
        raise ValueError("declares no kernel (decorate a function with @attnbench.kernel)")
    names = [one.name for one in found]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise ValueError(f"declares two kernels '{twice}'")
    return found


def _where(error: BaseException, path: Path) -> str:
    """ "line 12: " where the file itself is at fault."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"line {error.lineno}: "
    number, step = 0, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == str(path):
            number = step.tb_lineno
        step = step.tb_next
    return f"line {number}: " if number else ""


def _line(error: BaseException) -> str:
    words = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
