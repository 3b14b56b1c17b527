# SPDX-License-Identifier: Apache-2.0
"""`compare OLD NEW`: per case FASTER, SLOWER, SAME or UNCLEAR; exit status 1 on a regression.

The unit is the process: one number a round, its median. Logs of these are compared by Welch's test
(paired by round where both sides were measured in one session), with trimmed means; p-values are
Holm-corrected over the cases, and verdicts follow:
  SAME     the 95 % interval of new/old lies inside +-3 %
  FASTER   significant after the correction, new below old       SLOWER   likewise, above
  UNCLEAR  the rest: too few rounds, or too noisy, to say
Stored runs of different sessions also differ by the machine's mood on the day, of which the ceiling
probes see a part and the cases the rest (`study comparing` has figures). What the probes drifted, or
the median of the other cases where that is more, is taken off the evidence: a difference has to
exceed it. So a change of all cases at once is seen above MOST_CARRIED only. And a case that one side
was slowed for in most rounds gets no verdict.
--run takes two builds instead, and measures them in turn, case by case (interleave.py): the sharp
one, for both sides see the same machine.
A case that was measured before and is incorrect, failed or timed out now is BROKEN: a regression.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from attnbench import interleave, machine, records, variants
from attnbench.format import markdown_table, text_table, time_text

QUICK = "experiments/quick.toml"
SAME_WITHIN = 0.03
SIGNIFICANCE = 0.05
TRIMMED = 0.1  # of the rounds, at either end
MOST_CARRIED = 0.15  # of the move of all cases: beyond it, a build is likelier than a mood
BROKEN_NOW = ("incorrect", "failed", "timeout")


class DifferentMachines(ValueError):
    """Two runs that were not measured on one machine; the message says what differs."""


@dataclass(frozen=True)
class Comparison:
    table: pd.DataFrame  # one row a case of both sides, see compare()
    only_old: pd.DataFrame  # summary rows of cases on one side only
    only_new: pd.DataFrame
    drift: float  # relative, that the median case carries between sessions; 0 within one
    geometric_mean: float  # of new/old over the cases whole on both sides; nan without any

    @property
    def regressed(self) -> bool:
        return bool(self.table["verdict"].isin(["SLOWER", "BROKEN"]).any())


def compare(old: pd.DataFrame, new: pd.DataFrame, different_machines: bool = False) -> Comparison:
    """Compares two frames of records.load().

    The table's columns: label, sizes, old_ns, new_ns, ratio (new/old), low, high (95 %), p (raw),
    p_holm, slowed, verdict, old_status, new_status, reason. Ordered worst first.
    Raises DifferentMachines unless told that the machines may differ, and ValueError for a run
    that holds several.
    """
    for side, frame in (("OLD", old), ("NEW", new)):
        if len(machine.names(frame)) > 1:
            raise ValueError(f"{side} holds several machines ({', '.join(machine.names(frame))});"
                             " compare runs of one")  # fmt: skip
    if not different_machines:
        _same_machine(old.attrs.get("environment", {}), new.attrs.get("environment", {}))
    both = pd.concat([records.summarise(old), records.summarise(new)], keys=["old", "new"])
    both["label"] = variants.labels(both.drop(columns="source"))
    sides = {
        side: both.loc[side].drop_duplicates("case").set_index("case") for side in ("old", "new")
    }
    common = [c for c in sides["old"].index if c in sides["new"].index]
    paired = _share_session(old, new)
    values = {"old": _rounds(old), "new": _rounds(new)}
    slowed = set() if paired else mostly_slowed(old) | mostly_slowed(new)
    moved = np.full(len(common), np.nan)
    for i, case in enumerate(common):
        if case not in slowed and all(sides[side]["status"][case] == "ok" for side in sides):
            old_mean, new_mean = (trimmed(np.log(values[side][case]))[0] for side in sides)
            moved[i] = new_mean - old_mean
    ceilings = _drift(sides["old"], sides["new"], common)
    drifts = np.zeros(len(common)) if paired else carried(moved, ceilings)
    rows = [
        _compare_case(case, sides["old"].loc[case], sides["new"].loc[case], values, drift, paired)
        for case, drift in zip(common, drifts, strict=True)
    ]
    table = pd.DataFrame(rows)
    if len(table):
        table = judge(table.assign(slowed=table["case"].isin(slowed)))
        order = ["BROKEN", "SLOWER", "UNCLEAR", "SAME", "FASTER", "NOT MEASURED"]
        rank = table["verdict"].map(order.index)
        table = table.assign(rank=rank).sort_values(["rank", "ratio"], ascending=[True, False])
        table = table.drop(columns="rank").reset_index(drop=True)
    else:
        table = pd.DataFrame(columns=["label", "ratio", "p", "p_holm", "verdict"])
    ratios = table["ratio"].dropna()
    return Comparison(
        table,
        sides["old"].loc[[c for c in sides["old"].index if c not in sides["new"].index]],
        sides["new"].loc[[c for c in sides["new"].index if c not in sides["old"].index]],
        float(np.median(drifts)) if len(drifts) else 0.0,
        float(np.exp(np.log(ratios).mean())) if len(ratios) else np.nan,
    )


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """With p_holm and verdict, from columns ratio, low, high, p, slowed, old_status, new_status."""
    table = table.assign(p_holm=holm(table["p"].mask(table["slowed"]).to_numpy(float)))
    return table.assign(verdict=[_verdict(row) for _, row in table.iterrows()])


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction; nan stays nan and does not count as a test."""
    corrected = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested])]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return corrected


def carried(moved: np.ndarray, ceilings: float) -> np.ndarray:
    """The drift that each case carries between sessions, from the log ratios of all of them (nan
    where one was not measured) and the drift of the ceilings."""
    others = ~np.eye(len(moved), dtype=bool) & ~np.isnan(moved)
    common = [abs(np.median(moved[seen])) if seen.any() else 0.0 for seen in others]
    return np.maximum(ceilings, np.minimum(common, MOST_CARRIED))


def trimmed(values: np.ndarray) -> tuple[float, float, float]:
    """Mean without TRIMMED of the values at either end, its squared error, and that one's degrees of
    freedom (Yuen 1974): nothing is trimmed of fewer than ten. nan where values are too few.

    On a shared machine a round in ten is disturbed, and not a little: in the plain mean it hides a
    slowdown that the other rounds agree on. Trimming twice as much costs more than it gains where
    rounds are few or the noise is normal.
    """
    n, cut = len(values), int(TRIMMED * len(values))
    ordered, kept = np.sort(values), n - 2 * cut
    mean = float(ordered[cut : n - cut].mean())
    if kept < 2:
        return mean, np.nan, np.nan
    spread = np.var(np.clip(ordered, ordered[cut], ordered[n - cut - 1]), ddof=1)
    return mean, float((n - 1) * spread / (kept * (kept - 1))), kept - 1.0


def log_ratio(
    old: np.ndarray, new: np.ndarray, drift: float = 0.0, paired: bool = False
) -> tuple[float, float, float, float]:
    """(log ratio, low, high, p) of new/old from one log-time a round; nan where rounds are too few.

    Welch's test, or of the paired differences, of trimmed means. `drift` widens the interval on both
    sides and is taken off the difference before the test.
    """
    if paired:
        centre, square, freedom = trimmed(new - old)
    else:
        (before, a, of_old), (after, b, of_new) = trimmed(old), trimmed(new)
        centre, square = after - before, a + b
        weight = a**2 / of_old + b**2 / of_new
        freedom = square**2 / weight if weight > 0 else of_old + of_new
    if np.isnan(square):
        return centre, np.nan, np.nan, np.nan
    error = float(np.sqrt(square))
    reach = special.stdtrit(freedom, 0.975) * error + drift
    excess = max(abs(centre) - drift, 0)
    p = 2 * special.stdtr(freedom, -excess / error) if error > 0 else float(excess == 0)
    return centre, centre - reach, centre + reach, float(p)


def _compare_case(
    case: str, old: pd.Series, new: pd.Series, values: dict[str, dict[str, pd.Series]],
    drift: float, paired: bool,
) -> dict[str, Any]:  # fmt: skip
    row: dict[str, Any] = {"case": case, "label": new["label"]}
    row |= {size: new[size] for size in variants.SIZES}
    row |= {"old_ns": old["median_ns"], "new_ns": new["median_ns"], "ratio": np.nan, "low": np.nan,
            "high": np.nan, "p": np.nan, "old_status": old["status"],
            "new_status": new["status"], "reason": new["reason"]}  # fmt: skip
    if old["status"] != "ok" or new["status"] != "ok":
        return row
    before, after = values["old"][case], values["new"][case]
    if paired:
        shared = before.index.intersection(after.index)
        paired = len(shared) > 1
        before, after = (before[shared], after[shared]) if paired else (before, after)
    logs = np.log(before.to_numpy()), np.log(after.to_numpy())
    centre, low, high, row["p"] = log_ratio(*logs, drift, paired)
    row["ratio"], row["low"], row["high"] = np.exp(centre), np.exp(low), np.exp(high)
    return row


def _verdict(row: pd.Series) -> str:
    if row["old_status"] == "ok" and row["new_status"] in BROKEN_NOW:
        return "BROKEN"
    if np.isnan(row["ratio"]):
        return "NOT MEASURED"
    if row["slowed"]:
        return "UNCLEAR"
    if row["low"] > 1 - SAME_WITHIN and row["high"] < 1 + SAME_WITHIN:
        return "SAME"
    if row["p_holm"] < SIGNIFICANCE:
        return "FASTER" if row["ratio"] < 1 else "SLOWER"
    return "UNCLEAR"


def _rounds(frame: pd.DataFrame) -> dict[str, pd.Series]:
    measured = records.round_medians(frame)
    return {
        case: group.set_index(["session", "round"])["median_ns"]
        for case, group in measured.groupby("case")
    }


def mostly_slowed(frame: pd.DataFrame) -> set[str]:
    """Cases that the machine was slowed for in more than half of their rounds."""
    measured = records.round_medians(frame)
    share = measured["flags"].map(lambda flags: "slowed" in flags).groupby(measured["case"]).mean()
    return set(share.index[share > 0.5])


def _share_session(old: pd.DataFrame, new: pd.DataFrame) -> bool:
    sessions = set(old["session"]) & set(new["session"])
    return bool(sessions - {""})


def _drift(old: pd.DataFrame, new: pd.DataFrame, common: list[str]) -> float:
    ratio = np.log(new.loc[common, "ceiling_gflops"] / old.loc[common, "ceiling_gflops"])
    ratio = ratio[np.isfinite(ratio)]
    return float(abs(ratio.median())) if len(ratio) else 0.0


def _same_machine(old: dict[str, Any], new: dict[str, Any]) -> None:
    for what, before in machine.identity(old).items():
        after = machine.identity(new).get(what)
        if before != after:
            raise DifferentMachines(
                f"OLD and NEW are of different machines: {what} is {before!r} and {after!r}"
                " (--different-machines compares them all the same)"
            )


def _columns(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    table = comparison.table
    sizes = [s for s in ("keys", "queries", "head_dim", "heads", "batch")
             if s in table and (s == "keys" or table[s].nunique() > 1)
             and not (s == "queries" and (table["queries"] == table["keys"]).all())]  # fmt: skip
    header = ["verdict", "kernel", *sizes, "old", "new", "new/old", "95 %", "p (Holm)"]
    rows = [
        [
            row["verdict"], row["label"], *(str(row[s]) for s in sizes),
            time_text(row["old_ns"]) or row["old_status"],
            time_text(row["new_ns"]) or row["new_status"],
            "" if np.isnan(row["ratio"]) else f"{row['ratio']:.3f}",
            "" if np.isnan(row["low"]) else f"{row['low']:.3f}..{row['high']:.3f}",
            "" if np.isnan(row["p_holm"]) else f"{row['p_holm']:.2g}",
        ]
        for _, row in table.iterrows()
    ]  # fmt: skip
    return header, rows


def _closing(comparison: Comparison) -> list[str]:
    counts = comparison.table["verdict"].value_counts()
    lines = [", ".join(f"{n} {v}" for v, n in counts.items()) or "no case in common"]
    if not np.isnan(comparison.geometric_mean):
        whole = comparison.table["ratio"].notna().sum()
        lines.append(
            f"geometric mean of new/old over the {whole} cases measured on both sides: "
            f"{comparison.geometric_mean:.3f}"
        )
    if comparison.drift:
        lines.append(f"between the sessions the machine drifted by {comparison.drift:.1%}: carried")
    if "slowed" in comparison.table and (slowed := int(comparison.table["slowed"].sum())):
        lines.append(f"the machine was slowed in most rounds of {slowed} cases: no verdict on them")
    for side, frame in (("OLD", comparison.only_old), ("NEW", comparison.only_new)):
        for (label, status), own in frame.groupby(["label", "status"], sort=False):
            sizes = " ".join(f"{c}={_distinct(own[c])}" for c in ("keys", "head_dim"))
            count = f"{len(own)} cases, " if len(own) > 1 else ""
            lines.append(f"only in {side}: {label} {sizes} ({count}{status})")
    return lines


def _distinct(values: pd.Series) -> str:
    return ",".join(f"{value:.0f}" for value in sorted(values.dropna().unique()))


def _json(comparison: Comparison) -> str:
    def rows(frame: pd.DataFrame) -> Any:
        return json.loads(frame.to_json(orient="records"))

    columns = ["label", *variants.SIZES, "status", "median_ns"]
    return json.dumps({
        "regressed": comparison.regressed,
        "geometric_mean": None if np.isnan(comparison.geometric_mean) else comparison.geometric_mean,
        "drift": comparison.drift,
        "cases": rows(comparison.table),
        "only_old": rows(comparison.only_old.reset_index()[["case", *columns]]),
        "only_new": rows(comparison.only_new.reset_index()[["case", *columns]]),
    }, indent=2)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", help="run directory to compare with")
    parser.add_argument("new", metavar="NEW", help="run directory to judge")
    run = parser.add_argument_group("measuring two builds in turn")
    run.add_argument(
        "--run", action="store_true",
        help="OLD and NEW are builds: a build folder, a source tree, or attnbench-harness itself",
    )  # fmt: skip
    run.add_argument(
        "-e", "--experiment", metavar="FILE", default=QUICK, help="default: %(default)s"
    )
    run.add_argument("-k", "--kernel", action="append", default=[], help="as of sweep")
    run.add_argument("-a", "--axis", action="append", default=[], help="as of sweep")
    run.add_argument("--budget", metavar="SECONDS", help="for both together, as of sweep")
    run.add_argument("--rounds", type=int, default=interleave.ROUNDS, help="default: %(default)s")
    run.add_argument("-o", "--output", metavar="DIR", help="where the runs old/ and new/ go")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument(
        "--different-machines", action="store_true", help="compare runs of different machines too"
    )


def _measured(args: argparse.Namespace) -> tuple[Path, Path]:
    options = [x for k in args.kernel for x in ("-k", k)]
    options += [x for a in args.axis for x in ("-a", a)]
    options += ["--rounds", str(args.rounds)] + (["--budget", args.budget] if args.budget else [])
    output = Path(args.output) if args.output else interleave.default_output()
    return interleave.measure(
        interleave.program(args.old), interleave.program(args.new), args.experiment, output, options
    )


def main(args: argparse.Namespace) -> int:
    try:
        old, new = _measured(args) if args.run else (args.old, args.new)
        comparison = compare(records.load(old), records.load(new), args.different_machines)
    except ValueError as error:
        print(f"attnbench compare: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(_json(comparison))
    else:
        header, rows = _columns(comparison)
        table = markdown_table if args.markdown else text_table
        print(table(header, rows))
        print("\n" + "\n".join(("- " if args.markdown else "") + x for x in _closing(comparison)))
    return 1 if comparison.regressed else 0
