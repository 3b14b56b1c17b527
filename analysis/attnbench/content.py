# SPDX-License-Identifier: Apache-2.0
"""What a report is made of, whether in the terminal, as a page or as a document."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pandas as pd

from attnbench import fit, machine, records, scaling, tables
from attnbench.format import bytes_text

DIGEST_ABOVE = 30  # rows: of longer results a report shows the largest sizes first


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

    @property
    def grows(self) -> bool:
        """Whether there is a series of more than one size."""
        return bool(len(self.time)) and bool((self.time["sizes"] > 1).any())

    @property
    def exponents(self) -> list[tables.Table]:
        """Fitted growth along each size that was swept, where any is."""
        return [t for name, t in self.tables.items() if name.startswith("exponents") and t.rows]

    @functools.cached_property
    def tables(self) -> dict[str, tables.Table]:
        """What tables/ holds, by the stem of its files."""
        return {
            "machines": tables.machine_table(self.summary),
            "summary": tables.results(tables.digest(self.summary)),
            "results": tables.results(self.summary),
            "exponents": tables.exponents(self.time, self.memory),
            **{
                f"exponents_{time.attrs['over']}": tables.exponents(time, memory)
                for time, memory in self.others
            },
            "crossings": tables.crossings(self.time, self.time_fits),
            "physical": scaling.physical_table(self.summary),
            "threads": scaling.thread_table(self.summary),
            "peers": tables.peer_table(self.records, self.summary),
            "not_measured": tables.gap_table(self.summary),
        }


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
    unit = "n" if over == "keys" else over
    grown = [run.time, *(time for time, _ in run.others)]
    frames = [*grown, run.memory, *(memory for _, memory in run.others)]
    notes = []
    if any(frame["exponent"].notna().any() for frame in frames):
        notes.append(
            f"y = a + b·{unit}^p with relative weights, over the sizes measured; intervals: noise, what "
            "lies off this law, and the fits that leave one size out."
        )
    if any(frame["note"].str.startswith("undetermined").any() for frame in frames):
        notes.append(
            f"undetermined: the interval is wider than {fit.WIDEST_INTERVAL:g}; the values spread too"
            " little or scatter too much."
        )
    if any((frame["note"] == fit.NO_POWER).any() for frame in frames):
        notes.append(f"{fit.NO_POWER}: the last size stands apart from all others.")
    if any(row[-1].endswith("*)") for table in run.exponents for row in table.rows):
        notes.append(
            f"* provisional: fewer than {fit.PROVISIONAL_BELOW} sizes"
            f" (none is fitted with fewer than {fit.FEWEST_SIZES})."
        )
    notes += filter(None, map(tables.unfitted, grown))
    if alone := run.time.attrs["alone"]:
        notes.append(f"Series with a single {unit}, of which no growth can be seen: {alone}.")
    caches = machine.cache_bytes(run.records.attrs["environment"])
    if caches:
        sizes = ", ".join(f"L{i} {bytes_text(c)}" for i, c in enumerate(caches, 1))
        notes.append(
            f"Data caches of a core: {sizes}; slopes bend where a working set outgrows one."
        )
    return notes
