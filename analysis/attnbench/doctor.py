# SPDX-License-Identifier: Apache-2.0
"""Says what is missing on this machine, or would spoil measurements, and the remedy.

Exits 1 only when something that is required is missing. Needs the standard library alone, so that
it can be asked before any set-up.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path

from attnbench.places import PROGRAMS, ROOT

OK, NOTE, WARNING, MISSING = "ok", "note", "warning", "MISSING"


@dataclass(frozen=True)
class Finding:
    """One line: its level, what was looked at, what was found, and the remedy if any."""

    level: str
    what: str
    found: str
    remedy: str = ""


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _installed(what: str, found: bool, absent: str, remedy: str, words: str = "there") -> Finding:
    """Something that measurements can do without."""
    return Finding(OK, what, words) if found else Finding(NOTE, what, absent, remedy)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def tools() -> Iterator[Finding]:
    """Compiler, Python, libraries, and what the launcher makes of them."""
    set_up = "./attnbench setup installs it"
    compiler = os.environ.get("CXX", "g++")
    version = _output(compiler, "-dumpfullversion", "-dumpversion").splitlines()[:1]
    if not version:
        yield Finding(MISSING, "compiler", f"{compiler} is not there", set_up)
    elif _number(version[0]) < (12,) and "clang" not in compiler:
        yield Finding(MISSING, "compiler", f"{compiler} {version[0]}: C++20 needs g++ 12", set_up)
    else:
        yield Finding(OK, "compiler", f"{compiler} {version[0]}")
    yield Finding(OK, "Python", platform.python_version())

    for package, header in (
        ("libbenchmark-dev", "benchmark/benchmark.h"),
        ("libgtest-dev", "gtest/gtest.h"),
        ("nlohmann-json3-dev", "nlohmann/json.hpp"),
        ("libcli11-dev", "CLI/CLI.hpp"),
        ("libtomlplusplus-dev", "toml++/toml.h"),
        ("libhwloc-dev", "hwloc.h"),
    ):
        found = any(
            (Path(root) / header).exists() for root in ("/usr/include", "/usr/local/include")
        )
        if found:
            yield Finding(OK, package, "there")
        else:
            yield Finding(MISSING, package, f"no {header}", set_up)

    highway = next((ROOT / "build" / "deps" / "highway").glob("lib*/pkgconfig/libhwy.pc"), None)
    version = re.findall(r"Version: (\S+)", _text(highway)) if highway else []
    version = version or [_output("pkg-config", "--modversion", "libhwy")]
    if _number(version[0]) >= (1, 2):
        yield Finding(OK, "Highway", version[0])
    else:
        yield Finding(MISSING, "Highway", f"{version[0] or 'none'}: 1.2 is needed for bf16", set_up)
    for name in ("numpy", "scipy", "matplotlib", "pandas", "ml_dtypes"):
        try:
            yield Finding(OK, name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(MISSING, name, "not installed", set_up)
    harness = PROGRAMS / "attnbench-harness"
    if harness.exists():
        yield Finding(OK, "attnbench-harness", "built")
    else:
        yield Finding(MISSING, "attnbench-harness", "not built", "./attnbench setup builds it")
    if util.find_spec("attnbench._core"):
        yield Finding(OK, "attnbench._core", "built")
    else:
        yield Finding(MISSING, "attnbench._core", "not built", "./attnbench setup builds it")
    yield from _blis()
    launcher = shutil.which("mpirun") or shutil.which("srun")
    yield _installed(
        "MPI", bool(launcher) and (PROGRAMS / "attnbench-rank").exists(),
        "not there, or not built with: cases over several ranks will be refused",
        "apt-get install libopenmpi-dev openmpi-bin, and build again",
        "cases over several ranks can be run",
    )  # fmt: skip


def _blis() -> Iterator[Finding]:
    """BLIS is optional: blis_blocked refuses without it."""
    library = next(Path("/usr/lib").glob("*/blis-openmp/libblis.so*"), None)
    if library is None:
        yield Finding(
            WARNING, "BLIS", "not there: blis_blocked will refuse",
            "apt-get install libblis-openmp-dev",
        )  # fmt: skip
        return
    # The choice must be read after bli_init, in a process of its own: it depends on the environment
    # at that moment, and asking before aborts.
    code = (
        "import ctypes,sys; b=ctypes.CDLL(sys.argv[1]); b.bli_init();"
        "b.bli_arch_string.restype=ctypes.c_char_p;"
        "b.bli_info_get_version_str.restype=ctypes.c_char_p;"
        "print(b.bli_info_get_version_str().decode(),"
        "b.bli_arch_string(b.bli_arch_query_id()).decode())"
    )
    answer = _output(sys.executable, "-c", code, str(library)).split()
    if len(answer) != 2:
        yield Finding(WARNING, "BLIS", f"{library} cannot be loaded", "reinstall libblis4-openmp")
    elif answer[1] == "generic":
        yield Finding(
            NOTE, "BLIS", f"{answer[0]} does not know this CPU and would choose its slow 'generic'",
            "nothing to do: blis_blocked sets BLIS_ARCH_TYPE by the CPU's features",
        )  # fmt: skip
    else:
        yield Finding(OK, "BLIS", f"{answer[0]}, {answer[1]}")


def processor() -> Iterator[Finding]:
    """Model, instruction sets, caches, cores."""
    info = _text("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info)
    yield Finding(OK, "CPU", model.group(1) if model else platform.machine())
    flags = set(m.group(1).split()) if (m := re.search(r"^flags\s*: (.*)", info, re.M)) else set()
    sets = {
        "AVX2": "avx2", "FMA": "fma", "AVX-512": "avx512f", "AVX512-BF16": "avx512_bf16",
        "AMX-BF16": "amx_bf16",
    }  # fmt: skip
    there = [name for name, flag in sets.items() if flag in flags]
    absent = [name for name in sets if name not in there]
    note = f" (not: {', '.join(absent)})" if absent else ""
    yield Finding(OK if "AVX2" in there else NOTE, "instruction sets", ", ".join(there) + note)
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = _text(index / "type")
        if kind != "Instruction":
            caches.append(f"L{_text(index / 'level')} {_text(index / 'size')}")
    found = ", ".join(caches)
    yield Finding(OK if found else NOTE, "caches", found or "sizes cannot be read")

    allowed, online = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    quota = _text("/sys/fs/cgroup/cpu.max").split()
    if allowed < online:
        yield Finding(
            WARNING, "cores", f"{allowed} of {online} allowed",
            "expected under taskset or a batch system; else start from an unrestricted shell",
        )  # fmt: skip
    else:
        yield Finding(OK, "cores", f"{allowed}")
    if len(quota) == 2 and quota[0] != "max":
        yield Finding(
            WARNING, "CPU quota", f"{int(quota[0]) / int(quota[1]):.1f} cores' time by cgroup",
            "throttling shows as slow samples; raise the container's limit",
        )  # fmt: skip
    smt = _text("/sys/devices/system/cpu/smt/active")
    if smt == "1":
        yield Finding(
            NOTE, "hyper-threading", "on: two CPUs share a core's units",
            "pin to one CPU a core for clean figures of several threads",
        )  # fmt: skip


def steadiness() -> Iterator[Finding]:
    """Whether clock, memory and neighbours will let figures repeat."""
    cpu = Path("/sys/devices/system/cpu")
    governor = _text(cpu / "cpu0/cpufreq/scaling_governor")
    if not governor:
        yield Finding(NOTE, "governor", "cannot be read (usual in virtual machines)")
    elif governor == "performance":
        yield Finding(OK, "governor", governor)
    else:
        yield Finding(
            WARNING, "governor", f"{governor}: the clock follows the load",
            "as root: cpupower frequency-set -g performance",
        )  # fmt: skip
    boost, no_turbo = _text(cpu / "cpufreq/boost"), _text(cpu / "intel_pstate/no_turbo")
    if boost == "1" or no_turbo == "0":
        yield Finding(
            NOTE, "turbo", "on: the clock depends on temperature and on other cores",
            "compare within a run, or as root: echo 0 > /sys/devices/system/cpu/cpufreq/boost",
        )  # fmt: skip
    else:
        yield Finding(OK if boost or no_turbo else NOTE, "turbo",
                      "off" if boost or no_turbo else "cannot be read")  # fmt: skip
    memory = {m[0]: int(m[1]) for m in re.findall(r"(\w+):\s+(\d+) kB", _text("/proc/meminfo"))}
    free, total = memory.get("MemAvailable", 0) / 2**20, memory.get("MemTotal", 0) / 2**20
    if free < 2:
        yield Finding(
            WARNING, "memory", f"{free:.1f} GiB of {total:.1f} free",
            "large cases will be skipped; end what holds the rest",
        )  # fmt: skip
    else:
        yield Finding(OK, "memory", f"{free:.1f} GiB of {total:.1f} free")
    busy = _busy(0.5)
    if busy > 0.1:
        yield Finding(
            WARNING, "other processes", f"use {busy:.1f} cores right now",
            "end them or wait: rounds and ratios soften the effect, they do not remove it",
        )  # fmt: skip
    else:
        yield Finding(OK, "other processes", f"use {busy:.2f} cores")
    space = shutil.disk_usage(ROOT).free / 2**30
    if space < 2:
        yield Finding(WARNING, "disk", f"{space:.1f} GiB free", "set-up and build need 2 GiB")
    else:
        yield Finding(OK, "disk", f"{space:.0f} GiB free")
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        yield Finding(MISSING, "64 bits", "this Python is a 32-bit one", "install a 64-bit Python")


def instruments() -> Iterator[Finding]:
    """What counts without a clock: the processor's own counters, and callgrind."""
    paranoid = _text("/proc/sys/kernel/perf_event_paranoid")
    if not Path("/sys/bus/event_source/devices/cpu").exists():
        yield Finding(NOTE, "hardware counters", "none here, as in many virtual machines: null")
    elif os.geteuid() != 0 and _number(paranoid) > (2,):
        yield Finding(
            NOTE, "hardware counters", f"not permitted (perf_event_paranoid {paranoid})",
            "as root: sysctl kernel.perf_event_paranoid=2",
        )  # fmt: skip
    else:
        yield Finding(OK, "hardware counters", "there")
    yield _installed(
        "valgrind", bool(shutil.which("valgrind")),
        "not there: `study instructions` needs it", "apt-get install valgrind",
    )  # fmt: skip


def _busy(seconds: float) -> float:
    """How many cores are in use, by everyone, over the time given."""

    def ticks() -> tuple[int, int]:
        values = [int(x) for x in _text("/proc/stat").splitlines()[0].split()[1:9]]
        return sum(values), values[3] + values[4]

    try:
        all_0, idle_0 = ticks()
        time.sleep(seconds)
        all_1, idle_1 = ticks()
    except (IndexError, ValueError):
        return 0.0
    return (1 - (idle_1 - idle_0) / max(1, all_1 - all_0)) * (os.cpu_count() or 1)


def findings() -> list[Finding]:
    """Everything there is to say, in order."""
    return [*tools(), *processor(), *steadiness(), *instruments()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    found = findings()
    if args.json:
        import json

        print(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        for finding in found:
            print(f"{finding.level:8} {finding.what:18} {finding.found}")
            if finding.remedy:
                print(f"{'':8} {'':18} -> {finding.remedy}")
    return 1 if any(finding.level == MISSING for finding in found) else 0
