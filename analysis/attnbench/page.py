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
from dataclasses import dataclass
from pathlib import Path

from attnbench import figures, machine, quality, tables
from attnbench.content import DIGEST_ABOVE, Run, fit_notes, headline
from attnbench.figures import style
from attnbench.format import figure_columns

_STYLE = """
:root { --ink: #1b1d21; --faint: #6b7079; --grid: #d8dade; --paper: #ffffff; --link: #0060a0;
  --stripe: #f4f5f7; color-scheme: light dark; LIGHT }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --faint: #9ba1ab; --grid: #3a3e45;
  --paper: #16181b; --link: #79b8e8; --stripe: #1f2226; DARK } }
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
td:first-child:not(.num) { white-space: normal; min-width: 12rem; }
figure { margin: .8rem 0; } figure svg { width: 100%; height: auto; display: block; }
figure .narrow { display: none; }
figcaption { font-size: 13px; max-width: 46rem; }
details > summary { cursor: pointer; color: var(--link); margin: .5rem 0; }
pre { font-size: 12px; overflow-x: auto; background: var(--stripe); padding: .7rem; }
@media (max-width: 560px) { figure .wide { display: none; } figure .narrow { display: block; }
  h1 { font-size: 1.4rem; } table { font-size: 12px; } th, td { padding-right: .55rem; }
  td:first-child:not(.num) { min-width: 6.5rem; overflow-wrap: anywhere; } }
@media print { :root { --ink: #000; --faint: #555; --grid: #ccc; --paper: #fff; --link: #000; LIGHT }
  nav, details:not([open]) { display: none; } body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; }
  table { font-size: 7.5pt; } th, td { padding-right: .5rem; white-space: normal; }
  td.num { white-space: nowrap; } a { text-decoration: none; } }
"""


# Colours of kernels that would drown in a dark page, and what they are there.
_ON_DARK = {"#332288": "#9a8cf0", "#882255": "#d9729f", "#661100": "#d07a66",
            "#117733": "#4fb573", "#0072b2": "#3f9fdc", "#aa4499": "#cf7fc3"}  # fmt: skip


def _stylesheet() -> str:
    light = " ".join(f"--c{color[1:]}: {color};" for color in _ON_DARK)
    dark = " ".join(f"--c{color[1:]}: {other};" for color, other in _ON_DARK.items())
    return _STYLE.replace("LIGHT", light).replace("DARK", dark)


@dataclass(frozen=True)
class Links:
    """The formats that lie beside the page."""

    figures: tuple[str, ...]
    tables: tuple[str, ...]


def render(run: Run, folder: Path, drawn: dict[str, tuple[str, str]], links: Links) -> str:
    """The page. `drawn`: the SVG of each figure for wide and narrow screens; `folder`: its CSV."""
    named = run.tables
    sections: list[tuple[str, str, str]] = []  # id, title, body
    _, counts = headline(run).split("\n")
    everything = _table(named["results"])
    if len(run.summary) > DIGEST_ABOVE:
        everything = (
            f"<p>The largest measured size of each series.</p>{_table(named['summary'])}<details><summary>All "
            f"{len(run.summary)} cases</summary>{everything}</details>"
        )
    everything += "".join(f"<p class=note>{_e(n)}</p>" for n in quality.notes(run.records))
    if named["machines"].rows:
        sections.append(("machines", "Machines", _table(named["machines"])))
    sections.append(("results", "Results", everything + _links("tables/results", links.tables)))
    if named["peers"].rows:
        sections.append(("best-peers", "Best of ours, best peer", _table(named["peers"])))
    if run.grows:
        body = "".join(map(_table, run.exponents))
        body += "".join(f"<p class=note>{_e(n)}</p>" for n in fit_notes(run))
        if named["crossings"].rows:
            body += "<p>Where two variants change places:</p>" + _table(named["crossings"])
        kinds = links.tables if named["exponents"].rows else ("csv",)
        sections.append(("growth", "Growth", body + _links("tables/exponents", kinds)))
    for figure in figures.FIGURES:
        if figure.name in drawn and figure.name != "gaps":
            body = _figure(figure, folder, drawn[figure.name], links.figures)
            sections.append((figure.name, figure.title, body))
    if named["physical"].rows:
        note = "<p>t = a + b·n·d² + c·n²·d: b is what tokens cost, c what pairs do.</p>"
        sections.append(("physical", "The physical model", note + _table(named["physical"])))
    if named["threads"].rows:
        sections.append(("thread-scaling", "Efficiency of threads", _table(named["threads"])))
    if named["not_measured"].rows:
        body = _table(named["not_measured"]) + _links("tables/not_measured", links.tables)
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
        f"<style>{_stylesheet()}</style></head><body><header><h1>attnbench: {_e(title)}</h1>"
        f'<p class="lead">{lead}</p>{header}</header><nav><ol>{contents}</ol></nav>{body}'
        "</body></html>\n"
    )


def themed(svg: str) -> str:
    """An SVG of matplotlib for inlining: the style's ink, grid and faint become page colours."""
    svg = svg[svg.index("<svg") :]
    for color, name in ((style.INK, "ink"), (style.FAINT, "faint"), (style.GRID, "grid")):
        svg = svg.replace(color, f"var(--{name})")
    for color in _ON_DARK:
        svg = svg.replace(color, f"var(--c{color[1:]})")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1),
        count=1,
    )


def _figure(
    figure: figures.Figure, folder: Path, drawn: tuple[str, str], formats: tuple[str, ...]
) -> str:
    wide, narrow = map(themed, drawn)
    data = base64.b64encode((folder / f"{figure.name}.csv").read_bytes()).decode()
    label = html.escape(f"{figure.title}: {figure.caption}", quote=True)
    files = [(f"{figure.name}.{f}", f.upper()) for f in formats]
    files += [(f"{figure.name}-column.{f}", f"one-column {f.upper()}") for f in formats[:1]]
    links = "".join(f' · <a href="figures/{name}">{words}</a>' for name, words in files)
    return (
        f'<figure role="img" aria-label="{label}"><div class="wide">{wide}</div>'
        f'<div class="narrow">{narrow}</div><figcaption>{_e(figure.caption)} '
        f'<a download="{figure.name}.csv" href="data:text/csv;base64,{data}">data (CSV)</a>{links}'
        "</figcaption></figure>"
    )


def _table(table: tables.Table) -> str:
    numeric = figure_columns(table.header, table.rows)

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
        parts += [f"<p>{_e(machine.sentence(part))}</p>" for part in machine.each_part(environment)]
        parts.append(f"<details><summary>{_e(Path(source).name)}: environment.json</summary>"
                     f"<pre>{_e(text)}</pre></details>")  # fmt: skip
    return "".join(parts)


def _messages(run: Run) -> str:
    return "".join(f'<p class="note">{_e(m)}</p>' for m in run.records.attrs["messages"])


def _e(text: object) -> str:
    return html.escape(str(text), quote=False)
