# SPDX-License-Identifier: Apache-2.0
"""`python docs/gallery.py` draws the reference runs anew and writes docs/gallery.md from them."""

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
PEERS = RUN / "peers"
OF_PEERS = ("peers", "exactness")  # the rest is shown by the first run


def draw(run: Path, names: tuple[str, ...] = ()) -> None:
    """Puts the figures (by default all), two columns wide, and the tables into the run."""
    with tempfile.TemporaryDirectory() as folder:
        report.write(report.read([str(run)]), Path(folder), formats=("pdf", "png", "tex"))
        for kind in ("figures", "tables"):
            shutil.rmtree(run / kind, ignore_errors=True)
            (run / kind).mkdir()
            for path in sorted((Path(folder) / kind).iterdir()):
                wanted = kind == "tables" or not names or path.stem in names
                if wanted and "-column" not in path.name:
                    shutil.copy(path, run / kind)


def page() -> str:
    """The page's text, from the figures that lie in the runs."""
    lines = [
        "# Gallery",
        "",
        "The figures of the runs that are committed in `results/reference`, real ones with their",
        "environment files beside them. One command draws them and writes this page:",
        "",
        "```sh",
        ".venv/bin/python docs/gallery.py",
        "```",
        "",
        "`./attnbench report RUN` draws the same of any run: PDF, SVG and PNG, for one and for two",
        "columns, each with its data as CSV.",
    ]
    for run, command in ((RUN, "sweep"), (PEERS, "sweep experiments/peers.toml -a keys=2048")):
        lines += ["", f"## `./attnbench {command}`"]
        for figure in FIGURES:
            path = run / "figures" / f"{figure.name}.png"
            if path.is_file():
                lines += ["", f"### {figure.title}", "", figure.caption, "",
                          f"![{figure.title}](../{path.relative_to(ROOT)})"]  # fmt: skip
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    draw(RUN)
    draw(PEERS, OF_PEERS)
    (ROOT / "docs" / "gallery.md").write_text(page(), encoding="utf-8")
