# SPDX-License-Identifier: Apache-2.0
"""Figures and tables as text: the same rounding and units in the terminal, HTML, LaTeX and plots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
PARAGRAPH = 60  # letters from which a LaTeX column breaks its lines
_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


def significant(value: float, digits: int = 3) -> str:
    """Plain decimal with that many digits and trailing zeros kept: 12.0, 0.0123, 1230."""
    if not np.isfinite(value):
        return ""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")  # 99.96 has one digit more once rounded
    decimals = max(digits - 1 - int(np.floor(np.log10(abs(rounded)))), 0)
    return f"{rounded:.{decimals}f}"


def time_text(ns: float) -> str:
    """12.3 ms; empty for nan."""
    return _scaled(ns, _TIMES)


def bytes_text(count: float) -> str:
    """12.3 MiB; empty for nan."""
    if np.isfinite(count) and 0 <= count < 1024:
        return f"{count:.0f} B"
    return _scaled(count, _BYTES)


def time_with_interval(ns: float, low: float, high: float) -> str:
    """12.3 ms [12.1, 12.9]: one unit for all three, and as many digits as tell the bounds apart."""
    if not np.isfinite(ns):
        return ""
    unit, name = next(((u, t) for u, t in _TIMES if abs(ns) >= u), _TIMES[-1])
    if not np.isfinite(low):
        return f"{significant(ns / unit)} {name}"
    shown = [significant(x / unit) for x in (ns, low, high)]
    if shown[1] == shown[2] and low != high:
        shown = [significant(x / unit, 4) for x in (ns, low, high)]
    return f"{shown[0]} {name} [{shown[1]}, {shown[2]}]"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if np.isfinite(fraction) else ""


def error_text(error: float) -> str:
    return f"{error:.1e}" if np.isfinite(error) else ""


def exponent_text(value: float, low: float, high: float) -> str:
    if not np.isfinite(value):
        return ""
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def reason(error: Exception) -> str:
    """What an error says to a user: a file that the system refuses stands before why."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def last_words(stderr: str) -> str:
    """Why a program failed: the last line that it wrote, less our own name before it."""
    lines = stderr.strip().splitlines() or ["no reason given"]
    return lines[-1].removeprefix("attnbench: ")


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int = 0) -> str:
    """Aligned columns: the first texts left, figures right. The widest text columns are cut with
    an ellipsis when the table would be wider than `width` (0: any), in the middle where the ends are
    what tells the cells apart."""
    columns = list(zip(header, *rows, strict=True))
    figures = figure_columns(header, rows)
    widths = [max(map(len, column)) for column in columns]
    over = sum(widths) + 2 * (len(widths) - 1) - width if width else 0
    if over > 0:
        texts = [i for i, figure in enumerate(figures) if not figure] or range(len(widths))
        for _ in range(over):
            widest = max(texts, key=lambda i: widths[i])
            widths[widest] = max(widths[widest] - 1, 8)
        columns = [_cut(column, size) for column, size in zip(columns, widths, strict=True)]
        header, *rows = zip(*columns, strict=True)

    def line(cells: Sequence[str]) -> str:
        made = []
        for cell, size, figure in zip(cells, widths, figures, strict=True):
            made.append(cell.rjust(size) if figure else cell.ljust(size))
        return "  ".join(made).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])


def _cut(cells: Sequence[str], size: int) -> tuple[str, ...]:
    long = {cell for cell in cells if len(cell) > size}
    kept = (size - 1) // 2 if len({cell[: size - 1] for cell in long}) < len(long) else 0
    return tuple(
        cell if cell not in long else f"{cell[: size - 1 - kept]}…{cell[len(cell) - kept :]}"
        for cell in cells
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---:" if figure else "---" for figure in figure_columns(header, rows)]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *escaped])


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A booktabs tabular; \\usepackage{booktabs} is all that it needs."""
    columns = zip(figure_columns(header, rows), zip(header, *rows, strict=True), strict=True)
    align = "".join(
        "r" if figure else r"p{0.45\linewidth}" if max(map(len, column)) > PARAGRAPH else "l"
        for figure, column in columns
    )
    body = [" & ".join(map(latex_escape, row)) + r" \\" for row in rows]
    head = " & ".join(map(latex_escape, header)) + r" \\"
    return "\n".join([
        rf"\begin{{tabular}}{{{align}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}", "",
    ])  # fmt: skip


def latex_escape(text: str) -> str:
    for old, new in (("\\", r"\textbackslash "), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"),
                     ("#", r"\#"), ("$", r"\$"), ("{", r"\{"), ("}", r"\}"), ("^", r"\^{}"),
                     ("~", r"\~{}"), ("µ", r"$\mu$"), ("±", r"$\pm$"), ("²", r"$^2$"), ("·", r"$\cdot$"),
                     ("×", r"$\times$"), ("…", r"\dots{}")):  # fmt: skip
        text = text.replace(old, new)
    return text


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    if not np.isfinite(value):
        return ""
    unit, name = next(((u, t) for u, t in units if abs(value) >= u), units[-1])
    return f"{significant(value / unit)} {name}"


def figure_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns hold figures, and are set right."""
    return [_is_figures(column[1:]) for column in zip(header, *rows, strict=True)]


def _is_figures(cells: Sequence[str]) -> bool:
    filled = [c for c in cells if c]
    return bool(filled) and all(c[0].isdigit() or c[0] in "-+.[≤≥<>" for c in filled)
