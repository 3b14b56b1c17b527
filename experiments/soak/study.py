# SPDX-License-Identifier: Apache-2.0
"""A sweep that does not end: does the process that leads it keep its size, and lose nothing?

Tiny cases, so that visits are many; among them a size that is skipped and a problem that is refused.
The leading process is watched from outside; its children come and go.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np

from attnbench import cli, records
from attnbench.studies import Claim, Finding, Study

SECONDS, QUICK_SECONDS = 1800, 30
GROWTH = 0.02  # of the resident size, from the second quarter to the last
CASES = """
[sweep]
rounds = 1000000
repeat_slowed = false
max_seconds_per_case = 0.005
memory_budget_gib = 0.05
timeout_s = 600  # the machine may be suspended meanwhile
[axes]
keys = [16, 64, 4096]
head_dim = 16
[[kernel]]
name = "naive"
[[kernel]]
name = "flash"
[[kernel]]
name = "bahdanau"
"""


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    return 0


def run(folder: Path, quick: bool) -> Finding:
    seconds = QUICK_SECONDS if quick else SECONDS
    experiment = folder / "soak.toml"
    experiment.write_text(CASES)
    output = folder / time.strftime("run-%Y%m%dT%H%M%SZ", time.gmtime())
    command = [str(cli.harness()), "sweep", str(experiment), "-o", str(output),
               "--budget", str(seconds)]  # fmt: skip
    sizes, files = [], []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sweep:
        while sweep.poll() is None:
            sizes.append(resident_bytes(sweep.pid))
            files.append(len(list(Path(f"/proc/{sweep.pid}/fd").iterdir())))
            time.sleep(min(1.0, seconds / 100))
    sizes = [s for s in sizes if s > 0]
    quarter = len(sizes) // 4
    early, late = np.median(sizes[quarter : 2 * quarter]), np.median(sizes[-quarter:])
    frame = records.load(output)
    visits = frame.groupby("case")["round"].nunique()
    measured = frame[frame["status"] == "ok"]
    counts = measured.groupby("case")["round"].nunique()
    claims = [
        Claim(f"the leading process grows by under {GROWTH:.0%}", f"{late / early - 1:+.2%}",
              bool(late / early - 1 < GROWTH)),
        Claim("it keeps no files open", f"{max(files)} at most, {files[0]} at the start",
              max(files) <= files[0] + 8),
        Claim("it ends well", f"exit status {sweep.returncode}", sweep.returncode == 0),
        Claim("no record is lost or doubled", f"{len(frame)} records of {len(visits)} cases",
              bool((frame.groupby(["case", "round"]).size() == 1).all())
              and counts.max() - counts.min() <= 1 and not frame.attrs["messages"]),
    ]  # fmt: skip
    text = [
        f"{len(frame)} records in {seconds} s; resident {early / 2**20:.1f} MiB early, "
        f"{late / 2**20:.1f} MiB late."
    ]
    return Finding(text, claims, {"seconds": seconds, "records": len(frame),
                                  "early_bytes": early, "late_bytes": late})  # fmt: skip


STUDY = Study(
    "soak",
    "Does half an hour of sweeps leave the leading process as it was?",
    "It reads and writes one record at a time: its memory is flat, and no record is lost.",
    run,
)
