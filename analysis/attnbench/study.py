# SPDX-License-Identifier: Apache-2.0
"""Runs a study: its numbers, its claims tested on them, figures and a page.

Without NAME the studies are listed, and nothing is run. Results go to results/studies/NAME, and
results/studies/report.html holds all that were run there.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

DEFAULT = Path("results/studies")
WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="which; without it, the list")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, for a first look")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR",
        help=f"where the results go ({DEFAULT}/NAME); a long study goes on from what is there",
    )  # fmt: skip


def _print(record: dict) -> None:
    from attnbench import studies

    print(f"\n{record['question']}")
    for text in record["text"]:
        print(textwrap.fill(text, WIDTH))
    for claim in record["claims"]:
        mark = "agrees " if claim["agrees"] else "DIFFERS"
        line = f"{claim['expected']}: {claim['found']}"
        print(textwrap.fill(line, WIDTH, initial_indent=f"  {mark} ", subsequent_indent=" " * 10))
    print(studies.verdict(record))


def main(args: argparse.Namespace) -> int:
    from attnbench import extras, studies
    from attnbench.format import reason
    from attnbench.places import IN_TREE

    try:
        if args.name is None:
            found = studies.all_studies()
            width = max(len(study.name) for study in found)
            for study in found:
                print(f"{study.name:{width}}  {study.question}")
            return 0
        study = studies.module(args.name).STUDY
        for extra in study.extras if IN_TREE else ():
            extras.install(extra)
        folder = args.output or DEFAULT / study.name
        record = studies.execute(study, folder, args.quick)
        _print(record)
        print(f"Wrote {folder / 'study.json'}, {folder / 'report.html'} and {folder / 'figures'}/")
        if args.output is None:
            folders = sorted(path.parent for path in DEFAULT.glob("*/study.json"))
            studies.write(DEFAULT / "report.html", studies.report(folders, DEFAULT))
    except ModuleNotFoundError as error:  # an installed package brings no extras by itself
        print(
            f"attnbench study: {error.name} is not installed; pip install 'attnbench[experiments]'",
            file=sys.stderr,
        )
        return 2
    except (ValueError, OSError, extras.SetupError) as error:
        print(f"attnbench study: {reason(error)}", file=sys.stderr)
        return 2
    return 0
