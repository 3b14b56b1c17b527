# SPDX-License-Identifier: Apache-2.0
"""The measuring process for kernels hosted in Python: ``python -m attnbench.host``.

Puts every peer of ``kernels/peers/``, and the kernels of each ``--plugin FILE``, into the registry
of ``attnbench._core``, beside the C++ kernels that the extension holds, then hands over to the same
loop that the native child runs: requests on standard input, one JSON line each, replies on standard
output. Checks, timing and records are the C++ ones; here are only the settings that a process with
many libraries needs.
``--check`` compares with the oracle instead of measuring; ``--list`` says what a file declares.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attnbench import peer, plugin
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


def declared(file: str) -> str:
    """A line of JSON: {"kernels": [{"name", "idea"}]} of a plugin, or {"error": why not}."""
    try:
        kernels = [{"name": k.name, "idea": k.idea} for k in plugin.load(file)]
    except ValueError as error:
        return json.dumps({"error": str(error)})
    return json.dumps({"kernels": kernels})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="attnbench.host", description=__doc__)
    parser.add_argument("--plugin", action="append", default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--kernel", action="append", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fuzz", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    """Serves requests until end of file; the exit status is the loop's."""
    args = arguments()
    if args.list:
        print("\n" + "\n".join(map(declared, args.plugin)))
        return 0
    keep_freed_memory()
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    # First: the OpenMP runtime that comes with it then serves PyTorch and its kin as well. Two
    # runtimes would mean two pools of threads on the same processors.
    from attnbench import _core

    kernels = peers()
    names = args.kernel
    for file in args.plugin:
        if file.endswith(".py"):
            found = plugin.load(file)
            kernels += map(hosted, found)
            names = names + [k.name for k in found if not args.kernel]
        else:
            _core.load_plugin(file)
    for kernel in kernels:
        _core.register_kernel(**vars(kernel))
    if args.check:
        warnings.simplefilter("ignore")  # NaN and Inf are put in on purpose
        return _core.check(names, args.threads, args.fuzz, args.seed, args.every)
    gc.disable()
    return _core.child_loop()


if __name__ == "__main__":
    sys.exit(main())
