# SPDX-License-Identifier: Apache-2.0
"""Growth without noise: the instructions of one run, counted by callgrind.

A count is the same on a loaded machine and on a quiet one, so it shows the law of a kernel's work
where times would need many rounds. It is no time: caches, and how many instructions go at once, are
not in it; and valgrind knows no AVX-512, so the AVX2 code is what is counted.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from attnbench import cli, fit
from attnbench.figures import style
from attnbench.studies import Claim, Finding, Picture, Study

FUNCTION = "attnbench::Prepared::RunOnce()"  # one run of the kernel, and nothing else
SIZES, QUICK_SIZES = (64, 128, 256, 512, 1024), (64, 128, 256, 512)
# kernel: its mask, and the exponent in n that its idea promises
KERNELS: dict[str, tuple[dict[str, Any], float]] = {
    "naive": ({"pattern": "full"}, 2.0),
    "flash": ({"pattern": "full"}, 2.0),
    "local_window": ({"pattern": "local", "window": 16}, 1.0),
}
WITHIN = 0.1


def count(program: Path, case: dict[str, Any], folder: Path) -> int:
    """Instructions of one run. Raises ValueError with valgrind's or the kernel's own words."""
    out = folder / "callgrind.out"
    command = [
        "valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--collect-atstart=no",
        f"--toggle-collect={FUNCTION}", str(program), "child",
    ]  # fmt: skip
    request = json.dumps({"case": case, "pass": "memory"}) + "\n"
    done = subprocess.run(command, input=request, capture_output=True, text=True)
    answer = json.loads(done.stdout or "{}")
    if answer.get("status") != "ok":
        raise ValueError(f"{case['kernel']}: {answer.get('reason') or done.stderr[-300:]}")
    totals = re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.M)
    out.unlink()
    if totals is None or int(totals[1]) == 0:
        raise ValueError(f"callgrind saw no call of {FUNCTION}")
    return int(totals[1])


def run(folder: Path, quick: bool) -> Finding:
    if shutil.which("valgrind") is None:
        raise ValueError("valgrind is not installed; as root: apt-get install valgrind")
    program, sizes = cli.harness(), QUICK_SIZES if quick else SIZES
    counted: dict[str, list[int]] = {}
    claims, text = [], []
    for kernel, (mask, promised) in KERNELS.items():
        cases = [
            {"kernel": kernel, "problem": {"keys": n, "head_dim": 32, "mask": mask}, "seed": 1}
            for n in sizes
        ]
        counted[kernel] = [count(program, case, folder) for case in cases]
        again = count(program, cases[0], folder)
        offset, scale, p = fit.fit_power(sizes, counted[kernel])
        claims.append(Claim(
            f"{kernel}: instructions grow with n^{promised:g}", f"n^{p:.3f}",
            bool(abs(p - promised) <= WITHIN),
        ))  # fmt: skip
        claims.append(Claim(
            f"{kernel}: counted twice, the same", f"{again - counted[kernel][0]:+d} instructions",
            abs(again / counted[kernel][0] - 1) < 1e-3,
        ))  # fmt: skip
        text.append(
            f"{kernel}: {counted[kernel][-1]:.3g} instructions at n = {sizes[-1]}, "
            f"{offset:.3g} + {scale:.3g} n^{p:.3f}; local slopes "
            + ", ".join(f"{s:.2f}" for s in fit.local_slopes(sizes, counted[kernel]))
            + "."
        )
    with style.rc(7.0):
        figure, axes = style.canvas(7.0, 1, 1, 2.6)
        for kernel, values in counted.items():
            axes[0][0].loglog(sizes, values, marker="o", ms=3, label=kernel)
        axes[0][0].set_xlabel("n")
        axes[0][0].set_ylabel("instructions of a run")
        axes[0][0].legend(frameon=False)
    numbers = {"sizes": list(sizes), "instructions": counted}
    picture = Picture("instructions", figure, "Instructions of one run, by callgrind (AVX2).")
    return Finding(text, claims, numbers, [picture])


STUDY = Study(
    "instructions",
    "How do the instructions of a kernel grow, without the noise of a clock?",
    "Dense kernels n^2, a window n: the counts of their loops.",
    run,
)
