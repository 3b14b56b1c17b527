# SPDX-License-Identifier: Apache-2.0
"""`python docs/trust.py` takes up the studies of trust that were run in results/studies, keeps their
numbers in results/reference/studies/, and writes docs/trust.md from what is kept there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "analysis"))

from attnbench import studies
from attnbench.format import markdown_table

RUN = ROOT / "results" / "studies"
KEPT = ROOT / "results" / "reference" / "studies"
STUDIES = ("comparing", "coverage", "stopping", "hosts", "instructions", "soak")

INTRODUCTION = """\
# What the verdicts are worth

Each section is a study that measures the harness itself. Its text, claims and numbers are what the
command left behind; whole runs only, no quick ones. All numbers lie in
[`results/reference/studies/`](../results/reference/studies). After a study was run anew,

```sh
.venv/bin/python docs/trust.py
```

takes its numbers up and writes this page.

Of comparisons of stored runs: their rule was settled before the sessions that are shown here were
measured, every other one of them beside other work. It is careful, not sharp: where a machine was busy
it gives no verdict, and what changes between two days without slowing the probes or all cases alike it
cannot tell from a change of the code. `compare --run` is the judge.
"""


def take_up(run: Path = RUN) -> None:
    """Copies study.json of every study of trust that was run whole."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in STUDIES:
        path = run / name / "study.json"
        if path.is_file() and not json.loads(path.read_text(encoding="utf-8"))["quick"]:
            studies.write(KEPT / f"{name}.json", path.read_text(encoding="utf-8"))


def section(record: dict[str, Any]) -> str:
    rows = [
        [claim["expected"], claim["found"], "agrees" if claim["agrees"] else "**differs**"]
        for claim in record["claims"]
    ]
    commit = record["commit"]
    facts = [record["machine"], f"commit {commit}" if commit else "", record["started"][:10]]
    return "\n".join([
        f"## {record['question'].replace('`', '')}", "",
        f"Expected: {record['expected']}", "",
        *(f"- {text}" for text in record["text"]), "",
        markdown_table(["expected", "found", ""], rows), "",
        f"{studies.verdict(record)}", "",
        f"`./attnbench study {record['study']}`; " + ", ".join(f for f in facts if f) + ".", "",
    ])  # fmt: skip


def page() -> str:
    """The page's text, from the numbers that are kept."""
    records = [
        json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))
        for name in STUDIES
        if (KEPT / f"{name}.json").is_file()
    ]
    return "\n".join([INTRODUCTION, *map(section, records)])


if __name__ == "__main__":
    take_up(*map(Path, sys.argv[1:2]))
    (ROOT / "docs" / "trust.md").write_text(page(), encoding="utf-8")
