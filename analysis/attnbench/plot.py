# SPDX-License-Identifier: Apache-2.0
"""Draws the figures of one or several runs, without the report's page and tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from attnbench import report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="DIR", help="run directory")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="where the figures go (default: DIR/figures of one)"
    )
    parser.add_argument("--baseline", metavar="LABEL", help="variant that speed-ups are taken over")


def main(args: argparse.Namespace) -> int:
    try:
        if args.output is None and len(args.runs) > 1:
            raise ValueError("--output: needed for the figures of several runs")
        run = report.read(args.runs)
        folder = Path(args.output) if args.output else Path(args.runs[0]) / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        drawn = report.draw_all(run, folder, args.baseline)
    except (ValueError, OSError) as error:
        print(f"attnbench plot: {error}", file=sys.stderr)
        return 2
    for name in drawn:
        print(folder / f"{name}.pdf")
    return 0
