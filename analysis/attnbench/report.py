# SPDX-License-Identifier: Apache-2.0
"""`report DIR...`: the terminal's tables, then report.html, figures/ and tables/ in the run.

The tables are printed before anything is drawn, so that the answer does not wait for the pictures.
Beside the page lie each figure as PDF, PNG and SVG for one and two columns with its data as CSV,
and each table as CSV and LaTeX. --pdf, --tex, --svg and --png choose among the formats; the first
two also write the whole report as a document, report.pdf and report.tex.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from attnbench import quality, scaling, tables, variants
from attnbench.content import DIGEST_ABOVE, Run, fit_notes, headline, read
from attnbench.format import reason, text_table

WIDTH = 100  # columns of the terminal tables
FORMATS = ("pdf", "tex", "svg", "png")


def terminal(run: Run, every_case: bool = False) -> str:
    """All that the terminal shows, at most WIDTH columns wide."""
    parts = [headline(run)]
    if run.tables["machines"].rows:
        parts.append(_text(run.tables["machines"]))
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
    if run.grows:
        notes = "\n".join(textwrap.fill(note, WIDTH) for note in fit_notes(run))
        parts.append(("\n\n".join(map(_text, run.exponents)) + "\n" + notes).lstrip())
    for name in ("crossings", "physical", "threads", "peers"):
        if run.tables[name].rows and (run.grows or name != "crossings"):
            parts.append(_text(run.tables[name]))
    parts += ["\n".join(textwrap.fill(note, WIDTH) for note in quality.notes(run.records))]
    if run.tables["not_measured"].rows:
        parts.append(
            "Not measured, or not in every round:\n" + _stacked(run.tables["not_measured"])
        )
    return "\n\n".join(part for part in parts if part)


def write(
    run: Run, output: Path, baseline: str | None = None, processes: int | None = None,
    formats: Collection[str] = (),
) -> list[Path]:  # fmt: skip
    """Writes report.html with its figures/ and tables/ to `output`; the documents written.

    `formats`: of FORMATS, those that lie beside the page; none: all, without the documents.
    """
    from attnbench import document, page

    figure_formats = [f for f in ("pdf", "png", "svg") if f in formats or not formats]
    if "tex" in formats and "pdf" not in figure_formats:
        figure_formats.append("pdf")  # what report.tex includes
    for folder in ("figures", "tables"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    with_tex = "tex" in formats or not formats
    table_kinds = ("csv", "tex") if with_tex else ("csv",)
    # What is not written anew must not lie beside the new page; formats that were not asked for stay.
    _remove(output / "figures", _figure_stems(), ("csv", *figure_formats))
    _remove(output / "tables", run.tables, table_kinds)
    whole = {"results": run.summary, "exponents": _exponents_frame(run)}
    for name, table in run.tables.items():
        frame = whole.get(name)
        if not table.rows and (frame is None or frame.empty):
            continue
        if frame is None:
            frame = pd.DataFrame(list(table.rows), columns=pd.Index(list(table.header)))
        else:
            frame = frame.drop(columns=["samples_ns", "options", "cpus"], errors="ignore")
            names = variants.short_sources(frame["source"].unique())  # wherever the runs lie
            frame = frame.assign(source=frame["source"].map(names))
        frame.to_csv(output / "tables" / f"{name}.csv", index=False)
    if with_tex:
        document.write_latex_tables(run, output / "tables")
    drawn = draw_all(run, output / "figures", baseline, processes, figure_formats)
    _remove(output / "figures", _figure_stems(but=drawn), FORMATS)
    empty = [name for name in run.tables if not (output / "tables" / f"{name}.csv").is_file()]
    _remove(output / "tables", empty, ("tex",))
    links = page.Links(tuple(figure_formats), table_kinds)
    documents = {"report.html": page.render(run, output / "figures", drawn, links)}
    if "tex" in formats:
        documents["report.tex"] = document.latex(run, list(drawn))
    for name, text in documents.items():
        partial = output / f"{name}.partial"
        partial.write_text(text)
        partial.replace(output / name)
    written = [output / name for name in documents]
    if "pdf" in formats:
        partial = output / "report.partial.pdf"
        document.write_pdf(run, partial, baseline)
        written.append(partial.replace(output / "report.pdf"))
    return written


def _remove(folder: Path, stems: Collection[str], kinds: Collection[str]) -> None:
    """Files of an earlier report, by their names: a user's own stay, and those of `plot`."""
    for stem in stems:
        for kind in kinds:
            (folder / f"{stem}.{kind}").unlink(missing_ok=True)


def _figure_stems(but: Collection[str] = ()) -> list[str]:
    from attnbench import figures

    names = [figure.name for figure in figures.FIGURES if figure.name not in but]
    return [stem for name in names for stem in (name, f"{name}-column")]


def draw_all(
    run: Run, folder: Path, baseline: str | None = None, processes: int | None = None,
    formats: Sequence[str] = ("pdf", "png", "svg"),
) -> dict[str, tuple[str, str]]:  # fmt: skip
    """Draws every figure that the run has something for. name -> its SVG, two columns and one."""
    from attnbench import figures

    global _shared
    _shared = (run, folder, baseline, formats)
    names = [figure.name for figure in figures.FIGURES]
    workers = processes or min(len(os.sched_getaffinity(0)), 4)
    if workers > 1:
        # Forked, so that the frames need not travel.
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            outcomes = list(pool.map(_draw, names))
    else:
        outcomes = [_draw(name) for name in names]
    return {name: made for name, made in zip(names, outcomes, strict=True) if made}


_shared: tuple[Run, Path, str | None, Sequence[str]]


def _draw(name: str) -> tuple[str, str] | None:
    from attnbench import figures
    from attnbench.figures import style

    run, folder, baseline, formats = _shared
    drawn = []
    for stem, width in ((name, figures.WIDE_IN), (f"{name}-column", figures.COLUMN_IN)):
        drawing = figures.draw(name, run.records, run.summary, width, baseline)
        if drawing is None:
            return None
        drawn.append(style.svg_text(drawing, stem))
        if "svg" in formats:
            (folder / f"{stem}.svg").write_text(drawn[-1])
        style.save(drawing, folder / stem, tuple(f for f in formats if f != "svg"))
        if stem == name:
            drawing.data.to_csv(folder / f"{name}.csv", index=False)
    return drawn[0], drawn[1]


def _exponents_frame(run: Run) -> pd.DataFrame:
    return pd.concat([run.time.assign(quantity="time"), run.memory.assign(quantity="memory")])


def _text(table: tables.Table) -> str:
    return text_table(table.header, table.rows, WIDTH)


def _stacked(table: tables.Table) -> str:
    """A line a row, the reason under it: reasons are sentences and would be cut in a column."""
    lines = []
    for label, status, cases, sizes, why in table.rows:
        lines.append(f"  {status}: {label}, {cases} case{'s' * (cases != '1')} ({sizes})")
        lines += textwrap.wrap(why, WIDTH - 6, initial_indent=" " * 6, subsequent_indent=" " * 6)
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
    for kind, what in (("pdf", "figures as PDF, and report.pdf: the whole report as pages"),
                       ("tex", "tables for booktabs, and report.tex, which includes them"),
                       ("svg", "figures as SVG"), ("png", "figures as PNG")):  # fmt: skip
        parser.add_argument(
            f"--{kind}", action="append_const", dest="formats", const=kind,
            help=f"{what} (default: each but the documents)",
        )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="print every case, not a digest")
    parser.add_argument("--no-figures", action="store_true", help="print the tables only")


def main(args: argparse.Namespace) -> int:
    try:
        run = read(args.runs)
        labels = list(dict.fromkeys(run.summary["label"]))
        labels += sorted(set(variants.by_machine(run.summary)[0]["label"]) - set(labels))
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
        output = output.parent if output.suffix == ".jsonl" else output
        written = write(run, output, args.baseline, formats=args.formats or ())
    except (ValueError, OSError) as error:
        print(f"attnbench report: {reason(error)}", file=sys.stderr)
        return 2
    named = ", ".join(map(str, written))
    print(f"\nWrote {named}, {output / 'figures'}/ and {output / 'tables'}/")
    return 0
