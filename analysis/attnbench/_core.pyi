# SPDX-License-Identifier: Apache-2.0
"""The extension (harness/python.cc): the registry of kernels, and the loop that measures them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

def kernels() -> list[dict[str, Any]]: ...
def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    kernel: str = "flash",
    causal: bool = False,
    pattern: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    offset: int | None = None,
    columns: int | None = None,
    sinks: int = 0,
    tile: int | None = None,
    tiles: np.ndarray | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    threads: int = 1,
    bias: np.ndarray | None = None,
    key_lengths: np.ndarray | None = None,
    score: str = "scaled_dot",
    w: np.ndarray | None = None,
    u: np.ndarray | None = None,
    v_score: np.ndarray | None = None,
    centers: np.ndarray | None = None,
    options: Mapping[str, int] = {},
    return_lse: bool = False,
    return_weights: bool = False,
) -> Any: ...
def layer(name: str, x: np.ndarray, weights: Any, memory: Any = None, **given: Any) -> Any: ...
def mask(
    queries: int,
    keys: int,
    *,
    causal: bool = False,
    pattern: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    offset: int | None = None,
    columns: int | None = None,
    sinks: int = 0,
    tile: int | None = None,
    tiles: np.ndarray | None = None,
) -> np.ndarray: ...
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
) -> np.ndarray: ...
def calibrated_heads() -> list[dict[str, Any]]: ...
def calibrated(
    n: int, head_dim: int, *, deviation: float, locality: float, sink: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]: ...
def register_kernel(
    name: str,
    idea: str,
    refuse: Callable[[Mapping[str, Any]], str],
    prepare: Callable[[Mapping[str, Any], np.ndarray, np.ndarray, np.ndarray, int], Any],
    target: str = "",
) -> None: ...
def load_plugin(path: str) -> None: ...
def check(
    kernels: Sequence[str], threads: int = 2, fuzz: int = 200, seed: int = 0, every: int = 1
) -> int: ...
def child_loop(in_fd: int = 0, out_fd: int = 1) -> int: ...
def environment(seed: int = 0) -> dict[str, Any]: ...
def peak(threads: Sequence[int] = ...) -> Any: ...
def build_id() -> str: ...
def target() -> str: ...
