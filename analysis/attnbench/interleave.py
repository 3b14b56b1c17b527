# SPDX-License-Identifier: Apache-2.0
"""Two builds measured in turn, case by case, by the newer one's harness: `compare --run`.

Every visit of a round is made by both, each first in every other round, so that whatever the
machine does in the meantime hits both alike; the comparison is then of pairs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

ROUNDS = 12  # paired rounds: with fewer a slowdown of 5 % drowns on a shared machine
NAME = "attnbench-harness"


def program(build: str | Path) -> Path:
    """The harness of a build: the program itself, its build folder, or a source tree built in
    build/release. Raises ValueError that names what was looked for."""
    build = Path(build)
    tried = [build, build / "harness" / NAME, build / "build" / "release" / "harness" / NAME]
    for path in tried:
        if path.is_file():
            return path.resolve()
    raise ValueError(f"{build}: no build of attnbench (no {', no '.join(map(str, tried[1:]))})")


def default_output() -> Path:
    """results/compare/<UTC time>, under the current folder."""
    return Path("results") / "compare" / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def measure(
    old: Path, new: Path, experiment: str, output: Path, options: Sequence[str]
) -> tuple[Path, Path]:
    """Runs the experiment with both; the two run directories, old first.

    options: further arguments of `sweep`. Raises ValueError when the sweep did not end well; what
    it had to say stands on standard error.
    """
    command = [str(new), "sweep", experiment, "-o", str(output), "--against", str(old), *options]
    status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    if status != 0:
        raise ValueError(f"the interleaved sweep ended with status {status}")
    return output / "old", output / "new"
