# SPDX-License-Identifier: Apache-2.0
"""Sweeps on a cluster: the partition into shards, and the job array on a real Slurm."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from attnbench import cli
from attnbench.places import ROOT

TRIAL = ROOT / "experiments" / "cluster" / "try_on_one_node.sh"
SBATCH = ROOT / "experiments" / "cluster" / "sweep.sbatch"


def test_an_array_killed_and_requeued_on_slurm_loses_and_doubles_nothing(tmp_path: Path) -> None:
    try:
        cli.harness()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    command = tmp_path / "attnbench"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m attnbench "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    environment = {"ATTNBENCH": str(command), "PYTHONPATH": str(ROOT / "analysis")}
    done = subprocess.run(
        ["bash", TRIAL, tmp_path / "runs"], capture_output=True, text=True, timeout=540,
        env=os.environ | environment,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"killed after \d+ records, and requeued", done.stdout)
    assert "no gaps" in done.stdout and "each once" in done.stdout


def task(folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """sweep.sbatch as task 2 of an array of 4, with a command that only says what it is asked."""
    environment = {
        "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MAX": "4", "ATTNBENCH": "/bin/echo",
        "SLURM_SUBMIT_DIR": str(folder),
    }  # fmt: skip
    return subprocess.run(
        ["bash", SBATCH, *arguments], capture_output=True, text=True, cwd=folder,
        env=os.environ | environment | changes,
    )  # fmt: skip


def test_a_task_starts_its_shard_and_resumes_it_when_it_runs_again(tmp_path: Path) -> None:
    run = tmp_path / "out" / "shard-2-of-4"
    started = f"sweep e.toml --shard 2/4 -o {run} -k flash\n"
    assert task(tmp_path, str(run.parent), "e.toml", "-k", "flash").stdout == started
    run.mkdir()
    (run / "environment.json").write_text("{}")  # killed before its first case
    assert task(tmp_path, str(run.parent), "e.toml", "-k", "flash").stdout == started
    assert not run.exists()
    run.mkdir()
    (run / "run.json").write_text("{}")
    assert task(tmp_path, str(run.parent), "e.toml").stdout == f"sweep --resume {run}\n"


def test_a_part_of_an_array_is_not_taken_for_another_partition(tmp_path: Path) -> None:
    (tmp_path / "shard-1-of-4").mkdir()
    done = task(tmp_path, str(tmp_path), "e.toml", SLURM_ARRAY_TASK_MAX="2")
    assert done.returncode == 2 and "set SHARDS" in done.stderr and not done.stdout
    done = task(tmp_path, str(tmp_path), "e.toml", SLURM_ARRAY_TASK_MAX="2", SHARDS="4")
    assert "--shard 2/4" in done.stdout
    assert task(tmp_path, str(tmp_path)).returncode == 2


def test_without_slurm_the_trial_says_what_is_missing(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "id"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    text = TRIAL.read_text().replace("PATH=$PATH:/usr/sbin:/sbin\n", "")
    done = subprocess.run(
        ["bash", "-c", text], capture_output=True, text=True, env={"PATH": str(tmp_path)}, cwd="/"
    )
    assert done.returncode == 77
    assert done.stdout == "not tried: no munged (Debian: slurm-wlm and munge)\n"
