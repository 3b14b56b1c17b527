# SPDX-License-Identifier: Apache-2.0
"""`history DIR`: every case over the runs found under DIR, oldest first, with its steps marked.

A step is a FASTER, SLOWER or BROKEN of two neighbouring runs of one machine (compare.py decides,
with the drift between the sessions taken off); machines are kept apart.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from attnbench import machine, records
from attnbench.compare import compare
from attnbench.figures import style
from attnbench.format import reason, text_table, time_text

STEPS = ("FASTER", "SLOWER", "BROKEN")


@dataclass(frozen=True)
class History:
    table: pd.DataFrame  # a row a run and case: source, started, commit, machine, summary's columns
    steps: pd.DataFrame  # a row a step: case, label, keys, head_dim, before, after, ratio, verdict
    messages: list[str]


def read(root: str | Path) -> History:
    """Reads all runs under `root`; one that cannot be read is left out with a message.

    Raises RecordsError when there is none.
    """
    runs, messages = [], []
    for path in records.find_runs(root):
        try:
            frame = records.load(path)
        except records.RecordsError as error:
            messages.append(str(error))
            continue
        if len(machine.names(frame)) > 1:
            messages.append(f"{path}: of several machines; left out")
            continue
        environment = frame.attrs["environment"]
        runs.append((frame["started"].min(), tuple(machine.identity(environment).values()), frame))
    if not runs:
        raise records.RecordsError(f"{root}: no run directory in it")
    runs.sort(key=lambda run: (str(run[1]), run[0]))
    rows, steps = [], []
    for i, (started, where, frame) in enumerate(runs):
        commit = machine.commit(frame.attrs["environment"])
        rows.append(records.summarise(frame).assign(
            started=started, commit=commit, machine=" ".join(map(str, where)), run_index=i,
        ))  # fmt: skip
        if i and runs[i - 1][1] == where:
            found = compare(runs[i - 1][2], frame).table
            found = found[found["verdict"].isin(STEPS)]
            steps.append(found.assign(
                before=machine.commit(runs[i - 1][2].attrs["environment"]), after=commit,
                started=started, run_index=i,
            ))  # fmt: skip
    empty = pd.DataFrame(columns=["case", "label", "verdict", "run_index"])
    kept = [s for s in steps if len(s)]
    table = pd.concat(rows)
    table.attrs["environments"] = {i: run[2].attrs["environment"] for i, run in enumerate(runs)}
    return History(table, pd.concat(kept) if kept else empty, messages)


def draw(
    history: History, kernels: list[str] | None = None, width_in: float = 7.0
) -> style.Drawing:
    """Time relative to the case's first run, a panel a kernel, a line a case; steps are ringed."""
    table = history.table[history.table["status"] == "ok"].copy()
    if kernels:
        table = table[table["kernel"].isin(kernels)]
    if table.empty:
        raise ValueError("--kernel: no measured case of it in these runs")
    first = (
        table.sort_values("run_index").groupby(["machine", "case"])["median_ns"].transform("first")
    )
    table["relative"] = table["median_ns"] / first
    names = sorted(table["kernel"].unique())
    across = min(len(names), 3 if width_in > 5 else 1)
    with style.rc(width_in):
        figure, axes = style.canvas(
            width_in, -(-len(names) // across), across, 1.9, sharex=True, sharey=True
        )
        marks = style.marks(table.assign(label=table["kernel"]))
        runs = table.drop_duplicates("run_index").set_index("run_index").sort_index()
        for i, name in enumerate(names):
            panel = axes[i // across][i % across]
            for _, line in table[table["kernel"] == name].groupby(["machine", "case"]):
                line = line.sort_values("run_index")
                panel.plot(line["run_index"], line["relative"], color=marks[name].color, lw=0.7,
                           marker=".", ms=3, alpha=0.7)  # fmt: skip
                ringed = line.merge(history.steps[["case", "run_index"]], on=["case", "run_index"])
                panel.plot(ringed["run_index"], ringed["relative"], ls="none", marker="o", ms=7,
                           mfc="none", mec=style.INK, mew=0.7)  # fmt: skip
            panel.set_title(name)
            panel.axhline(1, color=style.FAINT, lw=0.6)
            panel.set_xticks(list(runs.index), [c or "?" for c in runs["commit"]], rotation=45,
                             ha="right")  # fmt: skip
            panel.tick_params(labelbottom=i + across >= len(names))  # none is below it
        for row in axes:
            row[0].set_ylabel("time / first run")
        for i in range(len(names), axes.size):
            axes[i // across][i % across].set_axis_off()
        mark = style.Mark(style.INK, "o", "none")
        style.finish(figure, table, [style.handle("step", mark, markerfacecolor="none")])
    columns = ["machine", "run_index", "started", "commit", "label", "keys", "head_dim",
               "median_ns", "low_ns", "high_ns", "relative"]  # fmt: skip
    return style.Drawing(figure, table[columns])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="DIR", help="folder with run directories in it")
    parser.add_argument("-k", "--kernel", action="append", help="only this kernel (repeatable)")
    parser.add_argument(
        "-o", "--output", metavar="STEM", help="writes STEM.pdf, .png, .csv (default: DIR/history)"
    )


def main(args: argparse.Namespace) -> int:
    try:
        history = read(args.root)
        stem = Path(args.output or Path(args.root) / "history")
        stem.parent.mkdir(parents=True, exist_ok=True)
        drawing = draw(history, args.kernel)
        drawing.data.to_csv(f"{stem}.csv", index=False)
        style.save(drawing, stem)
    except (ValueError, OSError) as error:
        print(f"attnbench history: {reason(error)}", file=sys.stderr)
        return 2
    for message in history.messages:
        print(f"left out: {message}", file=sys.stderr)
    runs = history.table["run_index"].nunique()
    print(f"{runs} runs, {history.table['case'].nunique()} cases, {len(history.steps)} steps")
    if len(history.steps):
        rows = [
            [row["verdict"], row["label"], str(row["keys"]), str(row["head_dim"]),
             row["before"] or "?", row["after"] or "?", time_text(row["old_ns"]),
             time_text(row["new_ns"]), f"{row['ratio']:.3f}" if np.isfinite(row["ratio"]) else ""]
            for _, row in history.steps.iterrows()
        ]  # fmt: skip
        header = ["step", "kernel", "n", "d", "from", "to", "old", "new", "new/old"]
        print(text_table(header, rows, 100))
    print(f"Wrote {stem}.pdf, {stem}.png and {stem}.csv")
    return 0
