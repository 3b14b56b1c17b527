# SPDX-License-Identifier: Apache-2.0
"""`python docs/gallery.py` draws the reference run anew and writes docs/gallery.md from it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "analysis"))

from attnbench import report
from attnbench.figures import FIGURES

RUN = ROOT / "results" / "reference"


def draw(run: Path = RUN) -> None:
    """Puts the figures, two columns wide, and the tables into the run."""
    with tempfile.TemporaryDirectory() as folder:
        report.write(report.read([str(run)]), Path(folder), formats=("pdf", "png", "tex"))
        for kind in ("figures", "tables"):
            shutil.rmtree(run / kind, ignore_errors=True)
            (run / kind).mkdir()
            for path in sorted((Path(folder) / kind).iterdir()):
                if "-column" not in path.name:
                    shutil.copy(path, run / kind)


def page(run: Path = RUN) -> str:
    """The page's text, from the figures that lie in the run."""
    lines = [
        "# Gallery",
        "",
        "Every figure of the run that is committed in `results/reference`, a real one with its",
        "environment file beside it. One command draws them and writes this page:",
        "",
        "```sh",
        ".venv/bin/python docs/gallery.py",
        "```",
        "",
        "`./attnbench report RUN` draws the same of any run: PDF, SVG and PNG, for one and for two",
        "columns, each with its data as CSV.",
    ]
    for figure in FIGURES:
        if (run / "figures" / f"{figure.name}.png").is_file():
            lines += ["", f"## {figure.title}", "", figure.caption, "",
                      f"![{figure.title}](../results/reference/figures/{figure.name}.png)"]  # fmt: skip
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    draw()
    (ROOT / "docs" / "gallery.md").write_text(page(), encoding="utf-8")
