# SPDX-License-Identifier: Apache-2.0
"""Every test: GoogleTest through ctest, then pytest. Fails when either fails or runs nothing."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys

from attnbench.places import IN_TREE, ROOT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-R", "--filter", help="only tests whose names match (ctest -R, pytest -k)")
    parser.add_argument("--cpp", action="store_true", help="the C++ tests only")
    parser.add_argument("--python", action="store_true", help="the Python tests only")


def main(args: argparse.Namespace) -> int:
    if not IN_TREE:
        print("attnbench test: the tests are in the source tree, not in a wheel", file=sys.stderr)
        return 2
    # A background shell starts us with SIGINT ignored, and children would inherit that: tests of
    # interrupts would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cpus = len(os.sched_getaffinity(0))
    ctest = ["ctest", "--test-dir", str(ROOT / "build" / "release"), "--output-on-failure"]
    ctest += ["--no-tests=error", "-j", str(cpus)]
    pytest = [sys.executable, "-m", "pytest", "--rootdir", str(ROOT)]
    # By file: what the tests of one share is made once. There are no more long ones than that.
    pytest += ["-n", str(min(cpus, 8)), "--dist", "loadfile"]
    if args.filter:
        ctest += ["-R", args.filter]
        pytest += ["-k", args.filter]
    failed = 0
    if not args.python:
        # Threads that wait for their team sleep: to spin, while other tests share the processors, was
        # half of the time that they took.
        environment = {"OMP_WAIT_POLICY": "passive"} | os.environ
        failed |= subprocess.run(ctest, env=environment).returncode
    if not args.cpp:
        failed |= subprocess.run(pytest, cwd=ROOT).returncode
    return 1 if failed else 0
