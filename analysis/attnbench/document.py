# SPDX-License-Identifier: Apache-2.0
"""report.pdf and report.tex: the report as pages, and as a LaTeX document to take parts from.

The PDF is set here, without a browser or TeX: A4 pages with the tables of the HTML page, each
figure in its final size with its caption, as many to a page as it holds, and page numbers in the
contents. All is vector, and the fonts are embedded once.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_pdf import PdfFile, RendererPdf
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from attnbench import figures, machine, tables
from attnbench.content import Run, fit_notes, headline
from attnbench.figures import style
from attnbench.format import figure_columns, latex_escape, latex_table

PAGE_IN = (8.27, 11.69)
LEFT_IN, TOP_IN, BOTTOM_IN = 0.635, 0.75, 0.75
WIDTH_IN = PAGE_IN[0] - 2 * LEFT_IN
BODY, SMALL, TABLE = 9.0, 7.5, 7.0  # points
FEWEST_LETTERS = 10  # of a column that gives way


@dataclass
class Pages:
    """Pages being filled from the top; `at` is how far down the current one is, in inches. A page is
    its text, and the figures that are drawn over it."""

    footer: str
    made: list[list[Figure]] = field(default_factory=list)
    contents: list[tuple[str, int]] = field(default_factory=list)  # title, page
    at: float = 0.0

    def new(self) -> Figure:
        """A further page, empty."""
        page = Figure(figsize=PAGE_IN)
        self.made.append([page])
        self.at = TOP_IN
        self._put(page, LEFT_IN, PAGE_IN[1] - 0.45, self.footer, SMALL, style.FAINT)
        self._put(page, PAGE_IN[0] - LEFT_IN, PAGE_IN[1] - 0.45, str(len(self.made)), SMALL,
                  style.FAINT, "right")  # fmt: skip
        return page

    @property
    def room(self) -> float:
        return PAGE_IN[1] - BOTTOM_IN - self.at

    def heading(self, title: str, needs_in: float = 1.5) -> None:
        """A section's title, on a new page where the section would not begin well on this one."""
        if not self.made or self.room < needs_in:
            self.new()
        self.at += 0.12 if self.at > TOP_IN else 0
        self.contents.append((title, len(self.made)))
        self._line(title, 13, style.INK, 0.32)

    def paragraph(self, text: str, size: float = BODY, color: str = style.INK) -> None:
        for line in _lines(text, size):
            if self.room < 0.2:
                self.new()
            self._line(line, size, color, size * 1.4 / 72)
        self.at += 0.06

    def table(self, table: tables.Table) -> None:
        """Rules as booktabs draws them; the head is repeated on every page."""
        step = TABLE * 1.42 / 72
        widths = _column_widths(table)
        lefts = [LEFT_IN + sum(widths[:i]) for i in range(len(widths))]
        right_aligned = figure_columns(table.header, table.rows)
        end = LEFT_IN + sum(widths) - 0.14

        def row(cells: Sequence[str], color: str = style.INK) -> None:
            wrapped = [_wrapped(c, w) for c, w in zip(cells, widths, strict=True)]
            for left, width, lines, right in zip(
                lefts, widths, wrapped, right_aligned, strict=True
            ):
                x = left + width - 0.14 if right else left
                for i, line in enumerate(lines):
                    self._put(self.made[-1][0], x, self.at + i * step, line, TABLE, color,
                              "right" if right else "left")  # fmt: skip
            self.at += step * max(map(len, wrapped))

        def head() -> None:
            self._rule(0.9, end)
            row(table.header)
            self._rule(0.5, end)

        head()
        for cells in table.rows:
            lines = max(len(_wrapped(c, w)) for c, w in zip(cells, widths, strict=True))
            if self.room < step * lines + 0.05:
                self._rule(0.9, end)
                self.new()
                head()
            row(cells)
        self._rule(0.9, end)
        self.at += 0.12

    def figure(self, title: str, caption: str, drawing: style.Drawing) -> None:
        """Title, caption, and the figure in its own size."""
        style.settle(drawing.figure)
        height = drawing.figure.get_figheight()
        lines = len(_lines(caption, BODY))
        self.heading(title, 0.12 + 0.32 + lines * BODY * 1.4 / 72 + 0.06 + height)
        self.paragraph(caption, BODY, style.FAINT)
        style.onto_page(drawing.figure, PAGE_IN, LEFT_IN, self.at)
        self.made[-1].append(drawing.figure)
        self.at += height + 0.25

    def write(self, path: Path, title: str) -> None:
        """All pages into a file."""
        width, height = PAGE_IN
        file = PdfFile(path, metadata={"Title": title, "CreationDate": None})
        try:
            for page in self.made:
                file.newPage(width, height)
                for figure in page:
                    figure.set_dpi(72)  # points, as PDF counts
                    figure.set_facecolor("none")
                    renderer = RendererPdf(file, 72, height, width)
                    figure.draw(renderer)
                    renderer.finalize()
            file.finalize()
        finally:
            file.close()

    def _line(self, text: str, size: float, color: str, down: float) -> None:
        self._put(self.made[-1][0], LEFT_IN, self.at, text, size, color)
        self.at += down

    def _rule(self, width: float, end_in: float) -> None:
        y = 1 - (self.at + 0.015) / PAGE_IN[1]
        x = [LEFT_IN / PAGE_IN[0], end_in / PAGE_IN[0]]
        page = self.made[-1][0]
        page.add_artist(Line2D(x, [y, y], lw=width, color=style.INK, transform=page.transFigure))
        self.at += 0.06

    @staticmethod
    def _put(
        page: Figure, x: float, y: float, text: str, size: float, color: str, align: str = "left"
    ) -> None:
        page.text(x / PAGE_IN[0], 1 - y / PAGE_IN[1], text, fontsize=size, color=color, ha=align,
                  va="top", parse_math=False)  # fmt: skip


def write_pdf(run: Run, path: Path, baseline: str | None = None) -> None:
    """Writes the whole report as a PDF of A4 pages."""
    with style.rc(figures.WIDE_IN), matplotlib.rc_context({"pdf.fonttype": 42}):
        pages = Pages(f"attnbench: {run.title}")
        first = pages.new()
        pages._line(f"attnbench: {run.title}", 18, style.INK, 0.4)
        for line in headline(run).split("\n"):
            pages.paragraph(line.removeprefix(f"{run.title}: "), BODY, style.FAINT)
        contents_at = pages.at + 0.1
        named = run.tables
        drawings = [
            (figure, drawing)
            for figure in figures.FIGURES
            if figure.name != "gaps"
            and (drawing := figures.draw(figure, run.records, run.summary, baseline=baseline))
        ]
        entries = (
            3
            + len(drawings)
            + sum(
                bool(named[n].rows)
                for n in ("machines", "peers", "physical", "threads", "not_measured")
            )
        )
        pages.at = contents_at + entries * 0.2 + 0.2
        if named["machines"].rows:
            pages.heading("Machines")
            pages.table(named["machines"])
        pages.heading("Results")
        pages.paragraph("The largest measured size of each series; every case follows at the end.",
                        BODY, style.FAINT)  # fmt: skip
        pages.table(tables.results(tables.digest(run.summary)))
        if named["peers"].rows:
            pages.heading("Best of ours, best peer")
            pages.table(named["peers"])
        if run.grows:
            pages.heading("Growth")
            for table in run.exponents:
                pages.table(table)
            for note in fit_notes(run):
                pages.paragraph(note, SMALL, style.FAINT)
            if named["crossings"].rows:
                pages.paragraph("Where two variants change places:")
                pages.table(named["crossings"])
        for name, title in (
            ("physical", "The physical model"),
            ("threads", "Efficiency of threads"),
        ):
            if named[name].rows:
                pages.heading(title)
                pages.table(named[name])
        for figure, drawing in drawings:
            pages.figure(figure.title, figure.caption, drawing)
        if named["not_measured"].rows:
            pages.heading("What was not measured")
            pages.table(named["not_measured"])
        pages.heading("All cases")
        pages.table(named["results"])
        for i, (title, number) in enumerate(pages.contents):
            y = contents_at + i * 0.2
            pages._put(first, LEFT_IN, y, title, BODY, style.INK)
            pages._put(first, LEFT_IN + 3, y, str(number), BODY, style.FAINT, "right")
        pages.write(path, f"attnbench: {run.title}")


def latex(run: Run, drawn: Sequence[str]) -> str:
    """report.tex: compiles as it is beside tables/ and figures/; `drawn` are the figures there."""
    lines = [
        r"% Written by attnbench; pdflatex -jobname report-latex report.tex leaves the report.pdf of",
        r"% --pdf alone. Each table needs \usepackage{booktabs}, each figure {graphicx}.",
        r"\documentclass[10pt]{article}",
        r"\usepackage[a4paper,margin=2cm]{geometry}",
        r"\usepackage{booktabs,graphicx}",
        r"\newsavebox{\tablebox}",
        r"\newcommand{\fitted}[1]{\sbox{\tablebox}{\input{#1}}%",
        r"  \ifdim\wd\tablebox>\linewidth\resizebox{\linewidth}{!}{\usebox{\tablebox}}%",
        r"  \else\usebox{\tablebox}\fi}",
        rf"\title{{attnbench: {latex_escape(run.title)}}}",
        rf"\author{{{latex_escape(machine.footer(run.summary))}}}",
        r"\date{}",
        r"\begin{document}",
        r"\maketitle",
    ]
    captions = {
        "machines": "The machines, and the roofs measured on each.",
        "summary": "The largest measured size of each series.",
        "peers": "Best of ours, best peer, problem by problem.",
        "exponents": "Fitted growth of time and memory.",
        "crossings": "Where two variants change places.",
        "physical": "The physical model, $t = a + b n d^2 + c n^2 d$.",
        "threads": "Efficiency of threads.",
        "not_measured": "What was not measured, and why.",
    }
    for name, caption in captions.items():
        if run.tables[name].rows:
            lines += [r"\begin{table}[htbp]\centering\small", rf"\caption{{{caption}}}",
                      rf"\fitted{{tables/{name}}}", r"\end{table}"]  # fmt: skip
    for figure in figures.FIGURES:
        if figure.name in drawn and figure.name != "gaps":
            caption = latex_escape(f"{figure.title}. {figure.caption}")
            lines += [r"\begin{figure}[htbp]\centering",
                      rf"\includegraphics[width=\linewidth]{{figures/{figure.name}}}",
                      rf"\caption{{{caption}}}", r"\end{figure}"]  # fmt: skip
    return "\n".join([*lines, r"\end{document}", ""])


def write_latex_tables(run: Run, folder: Path) -> None:
    """A booktabs tabular for each table that has rows."""
    for name, table in run.tables.items():
        if table.rows:
            (folder / f"{name}.tex").write_text(latex_table(*table))


def _lines(text: str, size: float) -> list[str]:
    return textwrap.wrap(text, int(WIDTH_IN * 72 / (size * 0.52)))


def _letters_in(text: str) -> float:
    """Width at the tables' size, in inches."""
    font = FontProperties(family="DejaVu Sans", size=TABLE)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def _column_widths(table: tables.Table) -> list[float]:
    """Inches a column, gap included; where the table is too wide the widest give way."""
    columns = list(zip(table.header, *table.rows, strict=True))
    widths = [max(_letters_in(c) for c in dict.fromkeys(column)) + 0.14 for column in columns]
    texts = [i for i, f in enumerate(figure_columns(table.header, table.rows)) if not f]
    while texts and sum(widths) > WIDTH_IN:
        widest = max(texts, key=lambda i: widths[i])
        if widths[widest] < FEWEST_LETTERS * TABLE * 0.56 / 72:
            break
        widths[widest] -= 0.05
    return widths


def _wrapped(cell: str, width_in: float) -> list[str]:
    if _letters_in(cell) <= width_in - 0.13:
        return [cell]
    return textwrap.wrap(cell, max(int((width_in - 0.14) * 72 / (TABLE * 0.58)), 6)) or [""]
