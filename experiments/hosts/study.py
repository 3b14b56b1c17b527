# SPDX-License-Identifier: Apache-2.0
"""Is a kernel as fast beside the peers as in the native process?

With isolation = "problem" a problem's native kernels share one child and the kernels hosted in
Python another. The extension of the Python host holds the native kernels too, so the host can time
them: in the same rounds as the native child, before a peer has run in that process and after.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from attnbench import cli, compare, peer
from attnbench.places import ROOT
from attnbench.studies import Claim, Finding, Study

ROUNDS, QUICK_ROUNDS = 12, 3
VISITS = 3  # of both processes in turn, a problem and round: their median is the round's
PEER = "pytorch_sdpa"
PROBLEMS: dict[str, dict[str, Any]] = {
    "flash, n 2048": {"kernel": "flash", "problem": {"keys": 2048, "head_dim": 64}},
    "flash, n 128": {"kernel": "flash", "problem": {"keys": 128, "head_dim": 64}},
    "flash, bf16": {"kernel": "flash", "problem": {"keys": 2048, "head_dim": 64, "dtype": "bf16"}},
    "split_keys, one query": {
        "kernel": "split_keys",
        "problem": {"queries": 1, "keys": 16384, "heads": 8, "head_dim": 64},
    },
}
SETTINGS = {"check": False, "probe": False, "target_interval": 1e-6, "plateau": False,
            "max_seconds": 0.1}  # fmt: skip

WHY_TWO = (
    "Why a kernel stays in the process of its kind: a record names the build of the native program, "
    "and the extension is another; compare --run measures a second build, which the extension does "
    "not hold; and what a peer does to its process (threads, allocator, memory) would be part of a "
    "native kernel's times in this experiment and in no other. Visits alternate within seconds "
    "either way, and every round starts fresh processes, so that the luck of one process's pages is "
    "in the intervals."
)


class Measurer:
    """A child that answers measuring requests, on one processor."""

    def __init__(self, command: list[str]) -> None:
        path = os.pathsep.join([str(ROOT / "analysis"), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )  # fmt: skip

    def ask(self, case: dict[str, Any]) -> dict[str, Any]:
        """The measured fields; their status may be any."""
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {"case": {"seed": 1, **case}, "pass": "measure", "settings": SETTINGS}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        return answer

    def median_ns(self, case: dict[str, Any]) -> float:
        answer = self.ask(case)
        if answer.get("status") != "ok":
            raise ValueError(f"{case['kernel']}: {answer.get('reason', 'the child has died')}")
        return float(answer["median_ns"])

    def end(self) -> None:
        self.process.communicate()


def a_round(rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Medians in ns by problem and process. Fresh children, which take turns in a random order; the
    host is measured again after the peer."""
    native = Measurer([str(cli.harness()), "child"])
    host = Measurer([sys.executable, "-m", "attnbench.host"])
    found: dict[str, dict[str, float]] = {name: {} for name in PROBLEMS}
    for after in (False, True):
        if after and host.ask({**PROBLEMS["flash, n 128"], "kernel": PEER}).get("status") != "ok":
            break
        for measurer in (native, host):  # else one is timed while the other still imports, or spins
            measurer.median_ns(PROBLEMS["flash, n 128"])
        for name in rng.permutation(list(PROBLEMS)):
            sides = {"native": native, "host": host}
            times: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(VISITS):
                for side in rng.permutation(list(sides)):
                    times[side].append(sides[side].median_ns(PROBLEMS[name]))
            for side, of_side in times.items():
                found[name][f"{side} again" if after else side] = float(np.median(of_side))
    native.end()
    host.end()
    return found


def interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """compare's ratio of paired rounds, and its 95 % interval."""
    centre, low, high, _ = compare.log_ratio(np.zeros(len(ratios)), np.log(ratios), paired=True)
    return float(np.exp(centre)), float(np.exp(low)), float(np.exp(high))


def run(folder: Path, quick: bool) -> Finding:
    allowed = os.sched_getaffinity(0)
    rng = np.random.default_rng(1)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        rounds = [a_round(rng) for _ in range(QUICK_ROUNDS if quick else ROUNDS)]
    finally:
        os.sched_setaffinity(0, allowed)
    pairs = [("host", "native", "the Python host")]
    if "host again" in rounds[0]["flash, n 128"]:
        pairs.append(("host again", "native again", f"the host after {PEER}"))
    numbers: dict[str, Any] = {}
    claims = []
    for of, to, words in pairs:
        for name in PROBLEMS:
            ratios = np.array([r[name][of] / r[name][to] for r in rounds])
            middle, low, high = interval(ratios)
            numbers[f"{name}: {words}"] = {
                "ratio": middle, "low": low, "high": high, "rounds": ratios.round(4).tolist(),
            }  # fmt: skip
            claims.append(Claim(
                f"{name}: in {words} as fast as in the native child "
                f"(interval within ±{compare.SAME_WITHIN:.0%})",
                f"{middle:.4f} [{low:.4f}, {high:.4f}] of its time",
                low > 1 - compare.SAME_WITHIN and high < 1 + compare.SAME_WITHIN,
            ))  # fmt: skip
    text = [
        f"{len(rounds)} rounds of fresh processes, {VISITS} visits each in turns within a round, one "
        "thread." + ("" if len(pairs) > 1 else f" {PEER} refused: {peer_refusal()}."),
        WHY_TWO,
    ]
    return Finding(text, claims, numbers)


def peer_refusal() -> str:
    return peer.missing_packages(peer.load_peer(PEER).KERNEL.packages) or "unknown"


STUDY = Study(
    "hosts",
    "Is a kernel as fast beside the peers, in the Python host, as in the native process?",
    "The same code on one thread: yes. So it costs a comparison nothing that each kernel stays in "
    "the process of its kind.",
    run,
)
