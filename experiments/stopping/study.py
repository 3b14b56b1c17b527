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
RULES: dict[str, dict[str, Any]] = {
    "time only": {"target_interval": 1e-6, "plateau": False},
    "1 %": {"target_interval": 0.01, "plateau": False},
    "2 %": {"target_interval": 0.02, "plateau": False},
    "2 %, plateau (default)": {"target_interval": 0.02, "plateau": True},
    "5 %, plateau": {"target_interval": 0.05, "plateau": True},
}


def sweep(folder: Path, name: str, settings: dict[str, Any], rounds: int) -> pd.DataFrame:
    """One row a round and case, measured if the folder lacks it."""
    output = folder / "runs" / name.replace(" ", "_").replace("%", "pct")
    if not (output / "records.jsonl").exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"max_seconds_per_case = {SECONDS}", f"rounds = {rounds}"]
        lines += [f"{key} = {str(value).lower()}" for key, value in settings.items()]
        text = CASES.read_text().replace("rounds = 6", "\n".join(lines))
        experiment = output.with_suffix(".toml")
        experiment.write_text(text)
        command = [str(cli.harness()), "sweep", str(experiment), "-o", str(output)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return records.load(output)


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
    rounds = 3 if quick else 6
    found = {name: spent(sweep(folder, name, s, rounds)) for name, s in RULES.items()}
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
