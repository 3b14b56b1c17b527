# SPDX-License-Identifier: Apache-2.0
"""`python docs/gallery.py` draws the reference runs anew and writes docs/gallery.md from them;
`python docs/gallery.py weights` also the weights of real models (it fetches one, and trains one)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "analysis"))

from attnbench import heatmap, report, show
from attnbench.figures import FIGURES

REFERENCE = ROOT / "results" / "reference"
WEIGHTS = REFERENCE / "weights"
SENTENCE = "The animal didn't cross the street because it was too tired"


class Shown(NamedTuple):
    """A run, the command that made it, and the names of what it shows (empty: all)."""

    folder: Path
    command: str
    names: tuple[str, ...] = ()


RUNS = (
    Shown(REFERENCE, "sweep"),
    Shown(REFERENCE / "threads", "sweep -k flash -k naive -k blis_blocked -k luong -a keys=512,2048"
          " -a head_dim=64 -a threads=1,2 -a dtype=f32,bf16 --budget 50", ("threads", "gaps")),
    Shown(REFERENCE / "peers", "sweep experiments/peers.toml -a keys=2048", ("peers", "exactness")),
    Shown(REFERENCE / "decode", "sweep experiments/decode.toml", ("roofline",)),
    Shown(REFERENCE / "ablation", "sweep experiments/ablation.toml --rounds 3 --budget 120",
          ("options",)),
)  # fmt: skip
# File, title, caption, command.
OF_WEIGHTS = (
    ("attention", "Attention matrix", "A head of MiniLM, word by word: a row looks, a column is"
     " looked at; colours always run from 0 to 1.", f'show "{SENTENCE}"'),
    ("graph", "Attention graph", "The same head: an edge runs from the word that looks, as wide as"
     " the weight. What the threshold leaves out is stated.", f'show "{SENTENCE}"'),
    ("heads", "Head grid", "The twelve heads of that layer, one scale: `attnbench.plot_heads`.", ""),
    ("alignment", "Alignment", "What a decoder looks at for each word that it translates, after"
     " training on nothing but pairs of sentences.", "study alignment"),
)  # fmt: skip


def draw(run: Shown) -> None:
    """Puts the figures, two columns wide, and the tables into the run."""
    with tempfile.TemporaryDirectory() as folder:
        report.write(report.read([str(run.folder)]), Path(folder), formats=("pdf", "png", "tex"))
        for kind in ("figures", "tables"):
            shutil.rmtree(run.folder / kind, ignore_errors=True)
            (run.folder / kind).mkdir()
            for path in sorted((Path(folder) / kind).iterdir()):
                wanted = kind == "tables" or not run.names or path.stem in run.names
                if wanted and "-column" not in path.name:
                    shutil.copy(path, run.folder / kind)


def draw_weights() -> None:
    """Runs the commands of OF_WEIGHTS and keeps their pictures."""
    WEIGHTS.mkdir(exist_ok=True)
    reading = show.read(SENTENCE)
    layer, _ = show.informative_head([reading], "it")
    weights, _ = show.kernel_weights(reading.q[layer], reading.k[layer])
    heatmap.plot_heads(weights).savefig(WEIGHTS / "heads.png", dpi=150, facecolor="white")
    with tempfile.TemporaryDirectory() as folder:
        for command in (["show", SENTENCE], ["study", "alignment"]):
            subprocess.run(
                [ROOT / "attnbench", *command, "-o", f"{folder}/{command[0]}"], check=True
            )
        for pattern, name in (("show/*-heatmap.png", "attention"), ("show/*-graph.png", "graph"),
                              ("study/figures/matrices.png", "alignment")):  # fmt: skip
            (made,) = Path(folder).glob(pattern)
            shutil.copy(made, WEIGHTS / f"{name}.png")


def picture(title: str, caption: str, path: Path) -> list[str]:
    return ["", f"### {title}", "", caption, "", f"![{title}](../{path.relative_to(ROOT)})"]


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
    for run in RUNS:
        lines += ["", f"## `./attnbench {run.command}`"]
        for figure in FIGURES:
            path = run.folder / "figures" / f"{figure.name}.png"
            if path.is_file():
                lines += picture(figure.title, figure.caption, path)
    lines += ["", "## Weights of real models", "", "`.venv/bin/python docs/gallery.py weights` makes",
              "these anew."]  # fmt: skip
    for name, title, caption, command in OF_WEIGHTS:
        made = f"{caption} `./attnbench {command}`" if command else caption
        lines += picture(title, made, WEIGHTS / f"{name}.png")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    for each in RUNS:
        draw(each)
    if "weights" in sys.argv[1:]:
        draw_weights()
    (ROOT / "docs" / "gallery.md").write_text(page(), encoding="utf-8")
