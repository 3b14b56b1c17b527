# SPDX-License-Identifier: Apache-2.0
"""Kernels hosted in Python: other people's attention, measured by the loop of the C++ kernels.

A file of ``kernels/peers/`` is one peer. Its stem is the kernel's name, its foot reads as its
claims::

    KERNEL = PythonKernel(
        name="pytorch_sdpa",
        idea="PyTorch scaled_dot_product_attention, flash kernel",
        packages=("torch",),
        refuse=lambda problem: unserved(problem, dtypes=("f32", "bf16"), patterns=("full",)),
        prepare=prepare,
    )

What is a peer's own business and what is timed: ``prepare`` allocates, converts layouts, builds
masks, compiles, and picks the peer's faster setting where there are several; it is not timed.
``Prepared.run`` computes the attention once, into memory of the peer's choice; it alone is timed.
``Prepared.output`` hands the last run's output over in the contract's layout; it is not timed.

Peer files import their package inside functions only, so that all of them can be loaded, listed and
refused where none is installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from attnbench.places import ROOT

Array = np.ndarray

# The folder of peer files; the environment may name another.
PEERS = Path(os.environ.get("ATTNBENCH_PEERS", ROOT / "kernels" / "peers"))


@dataclass(frozen=True)
class Mask:
    """Who may look at whom; the contract's fields (kernels/contract/problem.h), in positions.

    ``window`` is a half-width: local causal 256 admits 257 keys.
    """

    pattern: str = "full"
    window: int = 0
    stride: int = 0
    offset: int = -1
    columns: int = 0
    sinks: int = 0
    causal: bool = False
    tiles: Mapping[str, Any] | None = None

    @property
    def column(self) -> int:
        """The residue of pattern 'columns': its offset, by default the stride's last."""
        return self.stride - 1 if self.offset < 0 else self.offset

    def admits(self, query: Any, key: Any) -> Any:
        """The predicate on positions, element by element: on integer arrays or tensors that
        broadcast (NumPy's or PyTorch's: only operators are used). Not for 'tiles'."""
        distance = query - key
        local = (distance <= self.window) & (distance >= -self.window)
        if self.pattern == "full":
            admitted = distance == distance
        elif self.pattern == "local":
            admitted = local
        elif self.pattern == "strided":
            admitted = local | (distance % self.stride == 0)
        elif self.pattern == "columns":
            admitted = local | (key % self.stride == self.column)
        elif self.pattern == "fixed":
            admitted = (query // self.stride == key // self.stride) | (
                key % self.stride >= self.stride - self.columns
            )
        else:
            raise ValueError(f"pattern: '{self.pattern}' is no predicate on positions")
        if self.sinks > 0:
            admitted = admitted | (key < self.sinks)
        if self.causal:
            admitted = admitted & (distance >= 0)
        return admitted


@dataclass(frozen=True)
class Problem:
    """What is computed: Q [batch, heads, queries, head_dim], K [batch, kv_heads, keys, head_dim],
    V [batch, kv_heads, keys, v_dim] -> O [batch, heads, queries, v_dim]. Resolved: no defaults are
    left open. Fields are those of a case's JSON."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    v_dim: int
    scale: float
    dtype: str = "f32"
    out_dtype: str = "f32"
    score: str = "scaled_dot"
    softcap: float = 0.0
    mask: Mask = field(default_factory=Mask)
    query_origin: int = 0
    query_step: int = 1
    key_origin: int = 0
    key_step: int = 1
    bias: bool = False
    key_lengths: bool = False
    centers: bool = False

    @staticmethod
    def from_json(case_problem: Mapping[str, Any]) -> Problem:
        """From the "problem" object of a case. Missing fields take the contract's defaults."""
        fields = dict(case_problem)
        fields.pop("hidden", None)
        fields["mask"] = Mask(**fields.get("mask", {}))
        positions = fields.pop("positions", None)
        queries = fields.setdefault("queries", fields.get("keys"))
        keys = fields.setdefault("keys", queries)
        if keys is None:
            raise ValueError("keys: neither they nor queries are given")
        fields.setdefault("batch", 1)
        heads = fields.setdefault("heads", 1)
        fields.setdefault("kv_heads", heads)
        head_dim = fields["head_dim"]
        fields.setdefault("v_dim", head_dim)
        fields.setdefault("out_dtype", fields.get("dtype", "f32"))
        scaled = fields.get("score", "scaled_dot") == "scaled_dot"
        fields.setdefault("scale", 1 / math.sqrt(head_dim) if scaled else 1.0)
        fields.update(positions or {"query_origin": keys - queries})
        return Problem(**fields)

    @property
    def bottom_right(self) -> bool:
        """Whether positions are the default: the last query stands at the last key."""
        return (
            self.query_origin == self.keys - self.queries
            and self.key_origin == 0
            and self.query_step == self.key_step == 1
        )

    @property
    def sees_all(self) -> bool:
        """Whether no pair is masked, as in decoding: one causal query at the last position."""
        mask = self.mask
        return mask.pattern == "full" and (
            not mask.causal or (self.bottom_right and self.queries == 1)
        )

    @property
    def square_causal(self) -> bool:
        """Causal with as many queries as keys, where top-left and bottom-right agree."""
        mask = self.mask
        return (
            mask.pattern == "full"
            and mask.causal
            and self.bottom_right
            and self.queries == self.keys
        )

    def admitted(self) -> Array:
        """The mask as booleans [queries, keys]."""
        query = self.query_origin + self.query_step * np.arange(self.queries)[:, None]
        key = self.key_origin + self.key_step * np.arange(self.keys)[None, :]
        return np.broadcast_to(self.mask.admits(query, key), (self.queries, self.keys))


@dataclass(frozen=True)
class Prepared:
    """A problem ready to run. ``run`` computes once; ``output`` gives the last run's output as
    [batch, heads, queries, v_dim] in float32 or ml_dtypes.bfloat16."""

    run: Callable[[], object]
    output: Callable[[], Array]


@dataclass(frozen=True)
class PythonKernel:
    """A peer. ``refuse(problem)`` is empty when the peer solves this problem exactly, else the
    reason; it must not import the peer. ``prepare(problem, q, k, v, threads)`` gets views of the
    harness's tensors [batch, heads, rows, columns] (columns contiguous, other strides free) and
    may keep them. ``packages`` are the distributions that it needs, as pip names them. ``load``
    imports what prepare needs: neither its time nor its memory is counted as the kernel's."""

    name: str
    idea: str
    refuse: Callable[[Problem], str]
    prepare: Callable[[Problem, Array, Array, Array, int], Prepared]
    packages: Sequence[str] = ()
    load: Callable[[], object] | None = None
    # Further conditions of the machine: empty, or why the peer cannot run here at all.
    environment: Callable[[], str] | None = None

    def refusal(self, problem: Problem) -> str:
        """Empty, or why this problem is not served here: the packages, the machine, the peer."""
        if reason := missing_packages(self.packages):
            return reason
        if self.environment is not None and (reason := self.environment()):
            return reason
        return self.refuse(problem)

    def version(self) -> str:
        """The versions behind it, for the record, as "torch 2.13.0+cpu". Empty: one is missing."""
        if missing_packages(self.packages):
            return ""
        return ", ".join(f"{p} {importlib.metadata.version(p)}" for p in self.packages)


def import_all(*modules: str) -> None:
    """Imports the modules; for PythonKernel.load."""
    for module in modules:
        importlib.import_module(module)


def missing_packages(packages: Iterable[str]) -> str:
    """Empty, or "package X is not installed (pip install X)"."""
    for package in packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"package {package} is not installed (pip install {package})"
    return ""


def unserved(
    problem: Problem,
    *,
    dtypes: Sequence[str] = ("f32",),
    patterns: Sequence[str] = ("full",),
    causal: str = "any",
    grouped_heads: bool = True,
    unequal_v_dim: bool = True,
    scale: bool = True,
    softcap: bool = False,
    sinks: bool = False,
    empty_rows: bool = True,
) -> str:
    """Empty, or the first thing in ``problem`` that a peer with these claims does not serve.

    causal: "any" alignment (the peer is given the mask), "bottom_right", "square" (as many queries
    as keys; a single query at the last key sees all and counts as dense), or "none".
    empty_rows: queries that admit no key.
    """
    mask = problem.mask
    if problem.score not in ("scaled_dot", "dot"):
        return f"score '{problem.score}' is not served"
    if mask.pattern not in patterns:
        return f"pattern '{mask.pattern}' is not served"
    if problem.dtype not in dtypes:
        return f"dtype '{problem.dtype}' is not served"
    if problem.out_dtype != problem.dtype:
        return f"out_dtype '{problem.out_dtype}' is not served for {problem.dtype} inputs"
    for name in ("bias", "key_lengths", "centers"):
        if getattr(problem, name):
            return f"{name} {'is' if name == 'bias' else 'are'} not served"
    if problem.softcap > 0 and not softcap:
        return "softcap is not served"
    if mask.sinks > 0 and not sinks:
        return "sinks are not served"
    masked = not (mask.pattern == "full" and not mask.causal)
    if masked and causal != "any" and not problem.bottom_right:
        return "positions other than the default are not served"
    if mask.causal and not problem.sees_all:
        if causal == "none":
            return "causal is not served"
        if causal == "square" and problem.queries != problem.keys:
            return f"causal with {problem.queries} queries of {problem.keys} keys is not served"
        if causal == "bottom_right" and problem.queries > problem.keys:
            return "more queries than keys are not served"
    if problem.kv_heads != problem.heads and not grouped_heads:
        return "kv_heads other than heads are not served"
    if problem.v_dim != problem.head_dim and not unequal_v_dim:
        return "v_dim other than head_dim is not served"
    if not scale and not math.isclose(problem.scale, problem.head_dim**-0.5, rel_tol=1e-6):
        return "scale other than 1/sqrt(head_dim) is not served"
    short = not empty_rows and problem.keys < problem.queries
    if short and not problem.admitted().any(1).all():
        return "queries that admit no key are not served"
    return ""


_fastest: dict[Any, str] = {}


def fastest(
    key: Any, candidates: Mapping[str, Callable[[], Prepared]], seconds: float = 0.2
) -> Prepared:
    """The candidate with the least median time, over alternating runs: a peer with several settings
    is measured at its best. The choice is remembered for ``key`` as long as the process lives."""
    if len(candidates) == 1:
        (make,) = candidates.values()
        return make()
    if key in _fastest:
        return candidates[_fastest[key]]()
    made = {name: make() for name, make in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in made}
    for prepared in made.values():
        prepared.run()
    end = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < 3 or time.perf_counter() < end:
        for name, prepared in made.items():
            start = time.perf_counter()
            prepared.run()
            times[name].append(time.perf_counter() - start)
    _fastest[key] = min(times, key=lambda name: statistics.median(times[name]))
    return made[_fastest[key]]


def token_major(tensor: Array) -> Array:
    """[batch, heads, rows, columns] -> a new [batch, rows, heads, columns]."""
    return np.ascontiguousarray(tensor.transpose(0, 2, 1, 3))


def head_major(tensor: Array) -> Array:
    """[batch, rows, heads, columns] -> [batch, heads, rows, columns], contiguous."""
    return np.ascontiguousarray(tensor.transpose(0, 2, 1, 3))


def peer_files() -> dict[str, Path]:
    """Kernel name -> its file, sorted by name."""
    return {path.stem: path for path in sorted(PEERS.glob("*.py"))}


def load_peer(name: str) -> ModuleType:
    """The module of kernels/peers/<name>.py, loaded once; its KERNEL is the peer. It is not put
    where `import` looks: its name may be that of the package that it wraps."""
    module_name = f"attnbench_peers.{name}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    path = peer_files().get(name)
    if path is None:
        raise ValueError(f"kernel: no peer '{name}' in {PEERS}")
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


# What the peers built on PyTorch share. PyTorch is imported by whoever calls these.


def torch_threads(threads: int) -> None:
    """Sets PyTorch's threads (they are those of OpenMP) and switches off autograd, for good."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)


def to_torch(array: Array) -> Any:
    """A PyTorch tensor on the array's memory; bfloat16 stays bfloat16."""
    import torch

    if array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def from_torch(tensor: Any) -> Array:
    """The tensor's memory as an array, float32 or ml_dtypes.bfloat16."""
    import ml_dtypes
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def fold_groups(problem: Problem, q: Array) -> Array:
    """Where nothing is masked, the heads that share K and V are further queries of one head:
    [batch, heads, queries, d] -> [batch, kv_heads, heads/kv_heads * queries, d]. Saves peers that
    know no grouped heads from copying K and V, and is the fastest way for those that do."""
    if not problem.sees_all:
        raise ValueError("mask: groups fold only where every query sees every key")
    shape = (problem.batch, problem.kv_heads, -1, problem.head_dim)
    return np.ascontiguousarray(q).reshape(shape)
