# SPDX-License-Identifier: Apache-2.0
"""What a narrower target buys: intervals against the time spent on them, by stop rule.

The same cases (cases.toml) are swept with several targets, with and without the plateau rule. Two
intervals are looked at: the child's own, which the rule sees, and the published one, which resamples
rounds. Where processes differ more than samples do, sampling on narrows the first alone.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnbench import cli, records
from attnbench.studies import Claim, Finding, Study

CASES = Path(__file__).with_name("cases.toml")
SECONDS = 1.0  # the time limit of a visit, the default
TURNS, QUICK_TURNS, ROUNDS_A_TURN = 6, 2, 2
RULES: dict[str, dict[str, Any]] = {
    "time only": {"target_interval": 1e-6, "plateau": False},
    "1 %": {"target_interval": 0.01, "plateau": False},
    "2 %": {"target_interval": 0.02, "plateau": False},
    "2 %, plateau (default)": {"target_interval": 0.02, "plateau": True},
    "5 %, plateau": {"target_interval": 0.05, "plateau": True},
}


def measure(folder: Path, turns: int) -> dict[str, pd.DataFrame]:
    """Records by rule. The rules are swept in turn, ROUNDS_A_TURN rounds each: whatever the machine
    does in the meantime hits all alike. What the folder has is not measured again."""
    done = folder / "turns"
    begun = int(done.read_text()) if done.exists() else 0
    for turn in range(begun, turns):
        for name, settings in RULES.items():
            sweep(folder / "runs" / stem(name), settings, ROUNDS_A_TURN * (turn + 1))
        done.write_text(str(turn + 1))
    return {name: records.load(folder / "runs" / stem(name)) for name in RULES}


def stem(name: str) -> str:
    return name.replace(",", "").replace(" ", "_").replace("%", "pct")


def sweep(output: Path, settings: dict[str, Any], rounds: int) -> None:
    """Goes on with the run until it has so many rounds; begins it where there is none."""
    if (output / "records.jsonl").exists():
        options = ["--resume", str(output), "--rounds", str(rounds)]
    else:
        lines = [f"max_seconds_per_case = {SECONDS}", f"rounds = {rounds}"]
        lines += [f"{key} = {str(value).lower()}" for key, value in settings.items()]
        experiment = output.with_suffix(".toml")
        experiment.parent.mkdir(parents=True, exist_ok=True)
        experiment.write_text(CASES.read_text().replace("rounds = 6", "\n".join(lines)))
        options = [str(experiment), "-o", str(output)]
    command = [str(cli.harness()), "sweep", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def spent(frame: pd.DataFrame) -> dict[str, Any]:
    """Seconds a visit spent in samples, relative widths of both intervals, and why it stopped."""
    seconds = [
        sum(s) * r * 1e-9
        for s, r in zip(frame["samples_ns"], frame["runs_per_sample"], strict=True)
    ]
    own = (frame["ci95_high_ns"] - frame["ci95_low_ns"]) / frame["median_ns"]
    summary = records.summarise(frame)
    published = (summary["high_ns"] - summary["low_ns"]) / summary["median_ns"]
    return {
        "seconds": float(np.mean(seconds)), "own": float(own.median()),
        "published": float(published.median()),
        "stops": {k: int(v) for k, v in frame["stop"].value_counts().items()},
    }  # fmt: skip


def run(folder: Path, quick: bool) -> Finding:
    found = {
        name: spent(frame)
        for name, frame in measure(folder, QUICK_TURNS if quick else TURNS).items()
    }
    longest, default = found["time only"], found["2 %, plateau (default)"]
    text = [
        f"{name}: {v['seconds']:.2f} s of samples a visit; the child's interval {v['own']:.2%}, the "
        f"published one {v['published']:.2%} wide (medians over the cases); stopped by "
        + ", ".join(f"{k} {n}" for k, n in v["stops"].items())
        + "."
        for name, v in found.items()
    ]
    claims = [
        Claim("the default spends less than half the time that the limit allows",
              f"{default['seconds'] / longest['seconds']:.0%} of it",
              default["seconds"] < 0.5 * longest["seconds"]),
        Claim("and its published interval is wider by less than a half",
              f"{default['published']:.2%} against {longest['published']:.2%}",
              default["published"] < 1.5 * longest["published"]),
        Claim("sampling to the limit narrows the child's own interval more than the published one",
              f"{longest['own'] / default['own']:.2f} against "
              f"{longest['published'] / default['published']:.2f} of the default's",
              longest["own"] / default["own"] < longest["published"] / default["published"]),
    ]  # fmt: skip
    return Finding(text, claims, found)


STUDY = Study(
    "stopping",
    "What does a narrower target of the stop rule buy, and what does it cost?",
    "Processes differ more than the samples within one: beyond a few per cent, time is better spent "
    "on another round than on more samples.",
    run,
)
