# SPDX-License-Identifier: Apache-2.0
"""report.html: one file that opens without a network, light or dark, on paper or a phone.

Figures are inlined as SVG whose ink is recoloured by the page's own style; a narrow copy is shown
on narrow screens. The data of each figure travels inside the page and lies beside it as CSV.
"""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench import figures, machine, quality, tables
from attnbench.figures import style

if TYPE_CHECKING:
    from attnbench.report import Run

_STYLE = """
:root { --ink: #1b1d21; --faint: #6b7079; --grid: #d8dade; --paper: #ffffff; --link: #0060a0;
  --stripe: #f4f5f7; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --faint: #9ba1ab; --grid: #3a3e45;
  --paper: #16181b; --link: #79b8e8; --stripe: #1f2226; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; padding-top: .4rem; border-top: 1px solid var(--grid); }
p { max-width: 46rem; margin: .4rem 0; } a { color: var(--link); }
.lead, figcaption, .note { color: var(--faint); }
nav ol { display: flex; flex-wrap: wrap; gap: .1rem 1.4rem; margin: 1rem 0 0; padding: 0;
  list-style: none; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; border-bottom: 1px solid var(--ink); vertical-align: bottom; }
th, td { padding: .2rem .9rem .2rem 0; white-space: nowrap; }
td { border-bottom: 1px solid var(--grid); vertical-align: top; }
td.wrap { white-space: normal; min-width: 18rem; } .num { text-align: right; }
figure { margin: .8rem 0; } figure svg { width: 100%; height: auto; display: block; }
figure .narrow { display: none; }
figcaption { font-size: 13px; max-width: 46rem; }
details > summary { cursor: pointer; color: var(--link); margin: .5rem 0; }
pre { font-size: 12px; overflow-x: auto; background: var(--stripe); padding: .7rem; }
@media (max-width: 560px) { figure .wide { display: none; } figure .narrow { display: block; }
  h1 { font-size: 1.4rem; } }
@media print { :root { --ink: #000; --faint: #555; --grid: #ccc; --paper: #fff; --link: #000; }
  nav, details:not([open]) { display: none; } body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; }
  table { font-size: 8pt; } th, td { padding-right: .5rem; white-space: normal; } a { text-decoration: none; } }
"""


def render(run: Run, named: dict[str, tables.Table], folder: Path, drawn: list[str]) -> str:
    """The page. `named` are the tables of report.write; `drawn` the figures in `folder`."""
    sections: list[tuple[str, str, str]] = []  # id, title, body
    from attnbench.report import DIGEST_ABOVE, fit_notes, headline

    _, counts = headline(run).split("\n")
    everything = _table(named["results"])
    if len(run.summary) > DIGEST_ABOVE:
        digest = _table(tables.results(tables.digest(run.summary)))
        everything = (
            f"<p>The largest measured size of each series.</p>{digest}<details><summary>All "
            f"{len(run.summary)} cases</summary>{everything}</details>"
        )
    everything += "".join(f"<p class=note>{_e(n)}</p>" for n in quality.notes(run.records))
    sections.append(("results", "Results", everything + _links("tables/results", ("csv", "tex"))))
    if named["peers"].rows:
        sections.append(("peers", "Against peers", _table(named["peers"])))
    if named["exponents"].rows and run.summary[run.time.attrs["over"]].nunique() > 1:
        body = "".join(_table(t) for name, t in named.items() if name.startswith("exponents"))
        body += "".join(f"<p class=note>{_e(n)}</p>" for n in fit_notes(run))
        if named["crossings"].rows:
            body += "<p>Where two variants change places:</p>" + _table(named["crossings"])
        sections.append(("growth", "Growth", body + _links("tables/exponents", ("csv", "tex"))))
    for figure in figures.FIGURES:
        if figure.name in drawn and figure.name != "gaps":
            sections.append((figure.name, figure.title, _figure(figure, folder)))
    if named["physical"].rows:
        note = "<p>t = a + b·n·d² + c·n²·d: b is what tokens cost, c what pairs do.</p>"
        sections.append(("physical", "The physical model", note + _table(named["physical"])))
    if named["threads"].rows:
        sections.append(("thread-scaling", "Efficiency of threads", _table(named["threads"])))
    if named["not_measured"].rows:
        body = _table(named["not_measured"]) + _links("tables/not_measured", ("csv", "tex"))
        sections.append(("gaps", "What was not measured", body))
    sections.append(("environment", "Environment", _environment(run)))
    started = min((s for s in run.records["started"] if s), default="")[:16].replace("T", " ")
    lead = (
        f"{_e(machine.footer(run.summary))}{f' · {_e(started)} UTC' if started else ''}"
        f"<br>{_e(counts)}"
    )
    return document(run.title, lead, sections, _messages(run))


def document(title: str, lead: str, sections: list[tuple[str, str, str]], header: str = "") -> str:
    """The page around sections of (id, title, body); lead, header and bodies are HTML already."""
    contents = "".join(f'<li><a href="#{i}">{_e(t)}</a></li>' for i, t, _ in sections)
    body = "".join(f'<section><h2 id="{i}">{_e(t)}</h2>{b}</section>' for i, t, b in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>attnbench: {_e(title)}</title>'
        f"<style>{_STYLE}</style></head><body><header><h1>attnbench: {_e(title)}</h1>"
        f'<p class="lead">{lead}</p>{header}</header><nav><ol>{contents}</ol></nav>{body}'
        "</body></html>\n"
    )


def themed(svg: str) -> str:
    """An SVG of matplotlib for inlining: the style's ink, grid and faint become page colours."""
    svg = svg[svg.index("<svg") :]
    for color, name in ((style.INK, "ink"), (style.FAINT, "faint"), (style.GRID, "grid")):
        svg = svg.replace(color, f"var(--{name})")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1),
        count=1,
    )


def _figure(figure: figures.Figure, folder: Path) -> str:
    wide = themed((folder / f"{figure.name}.svg").read_text())
    narrow = themed((folder / f"{figure.name}-column.svg").read_text())
    data = base64.b64encode((folder / f"{figure.name}.csv").read_bytes()).decode()
    label = html.escape(f"{figure.title}: {figure.caption}", quote=True)
    return (
        f'<figure role="img" aria-label="{label}"><div class="wide">{wide}</div>'
        f'<div class="narrow">{narrow}</div><figcaption>{_e(figure.caption)} '
        f'<a download="{figure.name}.csv" href="data:text/csv;base64,{data}">data (CSV)</a> · '
        f'<a href="figures/{figure.name}.pdf">PDF</a> · <a href="figures/{figure.name}.png">PNG</a>'
        f' · <a href="figures/{figure.name}-column.pdf">one-column PDF</a></figcaption></figure>'
    )


def _table(table: tables.Table) -> str:
    columns = list(zip(table.header, *table.rows, strict=True))
    numeric = [
        any(column[1:]) and all(not c or c[0].isdigit() or c[0] in "-+.<>" for c in column[1:])
        for column in columns
    ]

    def cell(tag: str, text: str, number: bool) -> str:
        kind = ' class="num"' if number else ' class="wrap"' if len(text) > 60 else ""
        return f"<{tag}{kind}>{_e(text)}</{tag}>"

    head = "".join(cell("th", t, n) for t, n in zip(table.header, numeric, strict=True))
    body = "".join(
        "<tr>" + "".join(cell("td", t, n) for t, n in zip(row, numeric, strict=True)) + "</tr>"
        for row in table.rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _links(stem: str, kinds: tuple[str, ...]) -> str:
    links = " · ".join(f'<a href="{stem}.{k}">{k.upper()}</a>' for k in kinds)
    return f'<p class="note">Also as {links}</p>'


def _environment(run: Run) -> str:
    parts = []
    for source, environment in run.records.attrs["environments"].items():
        text = json.dumps(environment, indent=1, ensure_ascii=False)
        parts.append(f"<details><summary>{_e(Path(source).name)}: environment.json</summary>"
                     f"<pre>{_e(text)}</pre></details>")  # fmt: skip
    return "".join(parts)


def _messages(run: Run) -> str:
    return "".join(f'<p class="note">{_e(m)}</p>' for m in run.records.attrs["messages"])


def _e(text: object) -> str:
    return html.escape(str(text), quote=False)
