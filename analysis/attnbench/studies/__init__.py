# SPDX-License-Identifier: Apache-2.0
"""Studies: questions about attention, each with what the literature leads one to expect.

A study is a file of this folder, or ``experiments/NAME/study.py`` where its data and model are the
point; being there registers it. Its module has one ``STUDY``. ``run`` computes the numbers, tests
each claim on them and draws; the verdict follows from the claims, so no text can contradict a
number. What is left behind: ``study.json``, ``figures/`` (PDF, PNG, SVG) and ``report.html``.
"""

from __future__ import annotations

import html
import importlib
import importlib.util
import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from attnbench import machine
from attnbench.figures import style
from attnbench.places import ROOT
from attnbench.tables import Table

FORMATS = ("pdf", "png", "svg")


@dataclass(frozen=True)
class Claim:
    """What was expected, what the numbers say, and whether they agree."""

    expected: str
    found: str
    agrees: bool


@dataclass(frozen=True)
class Picture:
    """A figure, the stem of its files, and what it shows."""

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Finding:
    """What a study found. ``text``: paragraphs whose figures come from ``numbers``."""

    text: Sequence[str]
    claims: Sequence[Claim]
    numbers: dict[str, Any]
    pictures: Sequence[Picture] = ()
    tables: Sequence[tuple[str, Table]] = ()  # each with its caption

    @property
    def agrees(self) -> bool:
        return all(claim.agrees for claim in self.claims)


@dataclass(frozen=True)
class Study:
    """``run(folder, quick)`` may keep what it need not compute twice in the folder."""

    name: str
    question: str  # one line
    expected: str  # and by whom
    run: Callable[[Path, bool], Finding]
    extras: Sequence[str] = field(default=())  # of pyproject.toml, installed before the first run


def _files() -> dict[str, Path]:
    own = {p.stem: p for p in Path(__file__).parent.glob("*.py") if p.stem[0] != "_"}
    return own | {p.parent.name: p for p in (ROOT / "experiments").glob("*/study.py")}


@cache
def _module(name: str, path: Path) -> ModuleType:
    if path.parent == Path(__file__).parent:
        return importlib.import_module(f"{__name__}.{name}")
    # A folder of experiments/ is a package whose __init__ is study.py: its files import each other.
    spec = importlib.util.spec_from_file_location(
        f"attnbench_experiment_{name}", path, submodule_search_locations=[str(path.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def module(name: str) -> ModuleType:
    """The module of a study. Raises ValueError for a name that is unknown."""
    files = _files()
    if name not in files:
        raise ValueError(f"NAME: unknown study {name!r}; there are: {', '.join(sorted(files))}")
    return _module(name, files[name])


def part(name: str, file: str) -> ModuleType:
    """A module beside the study of experiments/NAME."""
    return importlib.import_module(f"{module(name).__name__}.{file}")


def all_studies() -> list[Study]:
    """Every study, by name."""
    return [module(name).STUDY for name in sorted(_files())]


def plain(value: Any) -> Any:
    """Numbers as JSON has them: arrays as lists, six digits, non-finite as None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def to_json(record: dict[str, Any]) -> str:
    """Indented, but a list of numbers is one line."""
    text = json.dumps(plain(record), indent=1, ensure_ascii=False)
    lists = re.compile(r"\[\s*((?:[-+.\deE]+|null)(?:,\s*(?:[-+.\deE]+|null))*)\s*\]")
    return (
        lists.sub(lambda found: "[" + ", ".join(found[1].replace(",", " ").split()) + "]", text)
        + "\n"
    )


def execute(study: Study, folder: Path, quick: bool) -> dict[str, Any]:
    """Runs a study and writes what it leaves; the content of study.json."""
    from attnbench import _core

    started, clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    finding = study.run(folder, quick)
    (folder / "figures").mkdir(exist_ok=True)
    for picture in finding.pictures:
        style.save(
            style.Drawing(picture.figure, pd.DataFrame()),
            folder / "figures" / picture.name,
            FORMATS,
        )
    environment = _core.environment()
    record = {
        "study": study.name,
        "question": study.question,
        "expected": study.expected,
        "agrees": finding.agrees,
        "claims": [vars(claim) for claim in finding.claims],
        "text": list(finding.text),
        "figures": [{"name": p.name, "caption": p.caption} for p in finding.pictures],
        "tables": [{"caption": caption, **table._asdict()} for caption, table in finding.tables],
        "numbers": finding.numbers,
        "quick": quick,
        "started": started,
        "seconds": round(time.monotonic() - clock, 1),
        "machine": machine.cpu(environment),
        "commit": machine.commit(environment),
    }
    write(folder / "study.json", to_json(record))
    write(folder / "report.html", report([folder]))
    return record


def write(path: Path, text: str) -> None:
    """The file appears under its name only when it is whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def verdict(record: dict[str, Any]) -> str:
    """In words, from the claims."""
    agreeing = sum(claim["agrees"] for claim in record["claims"])
    total = len(record["claims"])
    if agreeing == total:
        return "What was found agrees with what was expected."
    if agreeing == 0:
        return "What was found contradicts what was expected."
    return f"What was found agrees with what was expected in {agreeing} of {total} points."


def report(folders: Sequence[Path], root: Path | None = None) -> str:
    """One page with a section for each folder's study; links are relative to ``root``."""
    from attnbench import page

    found = [json.loads((f / "study.json").read_text(encoding="utf-8")) for f in folders]
    sections = []
    for folder, record in zip(folders, found, strict=True):
        prefix = "" if root is None else f"{folder.relative_to(root)}/"
        sections.append((record["study"], record["question"], _section(record, folder, prefix)))
    if len(sections) == 1:
        return page.document(f"study {sections[0][0]}", verdict(found[0]), sections)
    agreeing = sum(record["agrees"] for record in found)
    lead = f"{len(sections)} studies; {agreeing} found in every point what was expected"
    return page.document("studies", lead, sections)


def _section(record: dict[str, Any], folder: Path, prefix: str) -> str:
    from attnbench import page

    def paragraph(text: str) -> str:
        return f"<p>{html.escape(text, quote=False)}</p>"

    rows = [
        (c["expected"], c["found"], "agrees" if c["agrees"] else "differs")
        for c in record["claims"]
    ]
    body = paragraph(f"Expected: {record['expected']}")
    body += "".join(paragraph(f"Found: {t}" if i == 0 else t) for i, t in enumerate(record["text"]))
    body += f"<p><b>{verdict(record)}</b></p>"
    body += page._table(Table(("expected", "found", ""), rows))
    for table in record.get("tables", ()):
        body += paragraph(table["caption"]) + page._table(Table(table["header"], table["rows"]))
    for picture in record["figures"]:
        path = folder / "figures" / f"{picture['name']}.svg"
        label = html.escape(picture["caption"], quote=True)
        body += (
            f'<figure role="img" aria-label="{label}">{page.themed(path.read_text())}<figcaption>'
            f'{label} <a href="{prefix}figures/{picture["name"]}.pdf">PDF</a> · '
            f'<a href="{prefix}figures/{picture["name"]}.png">PNG</a></figcaption></figure>'
        )
    facts = [record["machine"], f"commit {record['commit']}" if record["commit"] else ""]
    facts += [f"{record['started'][:16].replace('T', ' ')} UTC", f"{record['seconds']:g} s"]
    facts += ["quick" if record["quick"] else ""]
    told = html.escape(" · ".join(fact for fact in facts if fact))
    return (
        body + f'<p class="note">{told} · <a href="{prefix}study.json">all numbers (JSON)</a></p>'
    )
