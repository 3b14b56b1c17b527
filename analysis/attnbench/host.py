# SPDX-License-Identifier: Apache-2.0
"""The measuring process for kernels hosted in Python: ``python -m attnbench.host``.

Puts every peer of ``kernels/peers/`` into the registry of ``attnbench._core``, beside the C++
kernels that the extension holds, then hands over to the same loop that the native child runs:
requests on standard input, one JSON line each, replies on standard output. Checks, timing and
records are the C++ ones; here are only the settings that a process with many libraries needs.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attnbench import peer
from attnbench.peer import Array, Prepared, Problem, PythonKernel


@dataclass(frozen=True)
class HostedKernel:
    """The arguments of ``_core.register_kernel``: a peer, spoken to in plain objects (the problem
    is the dict of a case's JSON). ``target`` stands in the records: the packages' versions."""

    name: str
    idea: str
    refuse: Callable[[Mapping[str, Any]], str]
    prepare: Callable[[Mapping[str, Any], Array, Array, Array, int], Prepared]
    target: str


def hosted(kernel: PythonKernel) -> HostedKernel:
    """The peer behind plain objects."""

    def refuse(problem: Mapping[str, Any]) -> str:
        reason = kernel.refusal(Problem.from_json(problem))
        # An accepted problem is about to be measured, in the memory pass from here on.
        if not reason and kernel.load is not None:
            kernel.load()
        return reason

    def prepare(problem: Mapping[str, Any], q: Array, k: Array, v: Array, threads: int) -> Prepared:
        gc.collect()  # what the last kernel left behind; nothing is collected while timing
        return kernel.prepare(Problem.from_json(problem), q, k, v, threads)

    return HostedKernel(kernel.name, kernel.idea, refuse, prepare, kernel.version())


def broken(name: str, error: Exception) -> HostedKernel:
    """Stands for a file that cannot be loaded: listed, and refusing with the reason."""
    reason = f"{name}.py cannot be loaded: {error}"

    def prepare(*_: Any) -> Prepared:
        raise RuntimeError(reason)

    return HostedKernel(name, reason, lambda _: reason, prepare, "")


def peers() -> list[HostedKernel]:
    """Every peer file as a kernel, sorted by name. Loading them imports none of their packages."""
    kernels = []
    for name in peer.peer_files():
        try:
            kernel = peer.load_peer(name).KERNEL
            if kernel.name != name:
                raise ValueError(f"KERNEL's name is '{kernel.name}', the file's '{name}'")
            kernels.append(hosted(kernel))
        except Exception as error:  # whatever the file does wrong becomes its reason
            kernels.append(broken(name, error))
    return kernels


def keep_freed_memory() -> None:
    """Lets glibc reuse large blocks instead of returning them to the system: a library that
    allocates its output or a matrix of weights in every call would otherwise be timed on page
    faults (JAX halves its speed by them)."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 << 20)


def main() -> int:
    """Serves requests until end of file; the exit status is the loop's."""
    keep_freed_memory()
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    # First: the OpenMP runtime that comes with it then serves PyTorch and its kin as well. Two
    # runtimes would mean two pools of threads on the same processors.
    from attnbench import _core

    for kernel in peers():
        _core.register_kernel(**vars(kernel))
    gc.disable()
    return _core.child_loop()


if __name__ == "__main__":
    sys.exit(main())
