# SPDX-License-Identifier: Apache-2.0
"""`report DIR...`: the terminal's tables, then report.html, figures/ and tables/ in the run.

The tables are printed before anything is drawn, so that the answer does not wait for the pictures.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from attnbench import fit, machine, quality, records, scaling, tables
from attnbench.format import bytes_text, latex_table, text_table

WIDTH = 100  # columns of the terminal tables
DIGEST_ABOVE = 30  # rows


@dataclass
class Run:
    """What a report is made of."""

    records: pd.DataFrame
    summary: pd.DataFrame
    time: pd.DataFrame
    time_fits: list[fit.Fit | None]
    memory: pd.DataFrame
    memory_fits: list[fit.Fit | None]
    # Time and memory along the other sizes that were swept.
    others: list[tuple[pd.DataFrame, pd.DataFrame]]

    @property
    def title(self) -> str:
        names = dict.fromkeys(n for n in self.records["experiment"] if n)
        return " and ".join(names) or "run"


def read(directories: list[str]) -> Run:
    """Loads, summarises and fits. Raises RecordsError."""
    frame = records.load(directories)
    summary = records.summarise(frame)
    time, time_fits = fit.fit_summary(frame, summary, "time")
    memory, memory_fits = fit.fit_summary(frame, summary, "memory")
    others = [
        (fit.fit_summary(frame, summary, "time", over)[0],
         fit.fit_summary(frame, summary, "memory", over)[0])
        for over in fit.growth_axes(summary)[1:]
    ]  # fmt: skip
    return Run(frame, summary, time, time_fits, memory, memory_fits, others)


def headline(run: Run) -> str:
    """Experiment, machine, commit and how many cases were measured, in one or two lines."""
    counts = tables.facts(run.summary)
    others = ", ".join(f"{n} {s}" for s, n in counts.items() if s not in ("cases", "ok"))
    rounds = run.summary["rounds"].max()
    return (
        f"{run.title}: {machine.footer(run.summary)}\n{counts['cases']} cases, {counts.get('ok', 0)}"
        f" measured{f' ({others})' if others else ''}, up to {rounds} rounds"
    )


def fit_notes(run: Run) -> list[str]:
    """What a reader must know to read the exponents."""
    over = run.time.attrs["over"]
    notes = [
        f"y = a + b·{'n' if over == 'keys' else over}^p with relative weights; intervals: rounds "
        "resampled, widened to the fits that leave one size out."
    ]
    if run.time["provisional"].any():
        notes.append(
            f"* provisional: fewer than {fit.PROVISIONAL_BELOW} sizes"
            f" (none is fitted with fewer than {fit.FEWEST_SIZES})."
        )
    caches = machine.cache_bytes(run.records.attrs["environment"])
    if caches:
        sizes = ", ".join(f"L{i} {bytes_text(c)}" for i, c in enumerate(caches, 1))
        notes.append(
            f"Data caches of a core: {sizes}; slopes bend where a working set outgrows one."
        )
    return notes


def terminal(run: Run, every_case: bool = False) -> str:
    """All that the terminal shows, at most WIDTH columns wide."""
    parts = [headline(run)]
    shown = run.summary[run.summary["status"] == "ok"]
    note = ""
    if len(shown) > DIGEST_ABOVE and not every_case:
        shown = tables.digest(run.summary)
        shown = shown[shown["status"] == "ok"]
        note = textwrap.fill(
            f"The largest size of each series; all {len(run.summary)} cases stand in report.html and"
            " tables/results.csv (or: report --all).", WIDTH,
        )  # fmt: skip
    if len(shown):
        parts.append(_text(tables.results(shown)) + (f"\n{note}" if note else ""))
    if len(run.time) and run.summary[run.time.attrs["over"]].nunique() > 1:
        notes = "\n".join(textwrap.fill(note, WIDTH) for note in fit_notes(run))
        exponents = [tables.exponents(*pair) for pair in [(run.time, run.memory), *run.others]]
        parts.append("\n\n".join(map(_text, exponents)) + "\n" + notes)
        crossings = tables.crossings(run.time, run.time_fits)
        if crossings.rows:
            parts.append(_text(crossings))
    for more in (
        scaling.physical_table(run.summary), scaling.thread_table(run.summary),
        tables.peer_table(run.records, run.summary),
    ):  # fmt: skip
        if more.rows:
            parts.append(_text(more))
    parts += ["\n".join(textwrap.fill(note, WIDTH) for note in quality.notes(run.records))]
    gaps = tables.gap_table(run.summary)
    if gaps.rows:
        parts.append("Not measured, or not in every round:\n" + _stacked(gaps))
    return "\n\n".join(part for part in parts if part)


def write(
    run: Run, output: Path, baseline: str | None = None, processes: int | None = None
) -> None:
    """Writes report.html, figures/*.pdf, *.png, *.svg, *.csv and tables/*.csv, *.tex to `output`."""
    from attnbench import page

    for folder in ("figures", "tables"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    named = {
        "results": tables.results(run.summary),
        "exponents": tables.exponents(run.time, run.memory),
        **{
            f"exponents_{time.attrs['over']}": tables.exponents(time, memory)
            for time, memory in run.others
        },
        "crossings": tables.crossings(run.time, run.time_fits),
        "physical": scaling.physical_table(run.summary),
        "threads": scaling.thread_table(run.summary),
        "peers": tables.peer_table(run.records, run.summary),
        "not_measured": tables.gap_table(run.summary),
    }
    whole = {"results": run.summary, "exponents": _exponents_frame(run)}
    for name, table in named.items():
        if not table.rows:
            continue
        stem = output / "tables" / name
        stem.with_suffix(".tex").write_text(latex_table(*table))
        frame = whole.get(name)
        if frame is None:
            frame = pd.DataFrame(list(table.rows), columns=pd.Index(list(table.header)))
        else:
            frame = frame.drop(columns=["samples_ns", "options", "cpus"], errors="ignore")
        frame.to_csv(stem.with_suffix(".csv"), index=False)
    drawn = draw_all(run, output / "figures", baseline, processes)
    html = page.render(run, named, output / "figures", drawn)
    partial = output / "report.html.partial"
    partial.write_text(html)
    partial.replace(output / "report.html")


def draw_all(
    run: Run, folder: Path, baseline: str | None = None, processes: int | None = None
) -> list[str]:
    """Draws every figure that the run has something for, in both widths; the names, in order."""
    from attnbench import figures

    global _shared
    _shared = (run, folder, baseline)
    names = [figure.name for figure in figures.FIGURES]
    workers = processes or min(len(os.sched_getaffinity(0)), 4)
    if workers > 1:
        # Forked, so that the frames need not travel.
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            outcomes = list(pool.map(_draw, names))
    else:
        outcomes = [_draw(name) for name in names]
    return [name for name, made in zip(names, outcomes, strict=True) if made]


_shared: tuple[Run, Path, str | None]


def _draw(name: str) -> bool:
    from attnbench import figures
    from attnbench.figures import speedup, style

    run, folder, baseline = _shared
    figure = next(f for f in figures.FIGURES if f.name == name)
    for stem in (name, f"{name}-column"):
        width = figures.WIDE_IN if stem == name else figures.COLUMN_IN
        if name == "speedup" and baseline:
            with style.rc(width):
                drawing = speedup.speedup(run.records, run.summary, width, baseline)
        else:
            drawing = figures.draw(figure, run.records, run.summary, width)
        if drawing is None:
            return False
        style.save(drawing, folder / stem, ("pdf", "png", "svg"))
        if stem == name:
            drawing.data.to_csv(folder / f"{name}.csv", index=False)
    return True


def _exponents_frame(run: Run) -> pd.DataFrame:
    return pd.concat([run.time.assign(quantity="time"), run.memory.assign(quantity="memory")])


def _text(table: tables.Table) -> str:
    return text_table(table.header, table.rows, WIDTH)


def _stacked(table: tables.Table) -> str:
    """A line a row, the reason under it: reasons are sentences and would be cut in a column."""
    lines = []
    for label, status, cases, sizes, reason in table.rows:
        lines.append(f"  {status}: {label}, {cases} case{'s' * (cases != '1')} ({sizes})")
        lines += textwrap.wrap(reason, WIDTH - 6, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="DIR", help="run directory")
    parser.add_argument(
        "-o", "--output", metavar="DIR",
        help="where report.html, figures/ and tables/ go (default: the run; needed for several)",
    )  # fmt: skip
    parser.add_argument("--baseline", metavar="LABEL", help="variant that speed-ups are taken over")
    parser.add_argument(
        "--budget", action="append", default=[], metavar="AMOUNT",
        help="print the largest size that each kernel reaches in it, as '1.5s' or '8GiB'",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="print every case, not a digest")
    parser.add_argument("--no-figures", action="store_true", help="print the tables only")


def main(args: argparse.Namespace) -> int:
    try:
        run = read(args.runs)
        labels = list(dict.fromkeys(run.summary["label"]))
        if args.baseline and args.baseline not in labels:
            raise ValueError(
                f"--baseline: no variant '{args.baseline}'; there are: {'; '.join(labels)}"
            )
        if args.output is None and len(args.runs) > 1 and not args.no_figures:
            raise ValueError("--output: needed for a report of several runs")
        print(terminal(run, args.all), flush=True)
        for budget in args.budget:
            print("\n" + _text(scaling.budget_table(
                budget, run.time, run.time_fits, run.memory, run.memory_fits
            )))  # fmt: skip
        if args.no_figures:
            return 0
        output = Path(args.output or args.runs[0])
        write(run, output if output.suffix != ".jsonl" else output.parent, args.baseline)
    except (ValueError, OSError) as error:
        print(f"attnbench report: {error}", file=sys.stderr)
        return 2
    print(f"\nWrote {output / 'report.html'}, {output / 'figures'}/ and {output / 'tables'}/")
    return 0
