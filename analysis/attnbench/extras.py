# SPDX-License-Identifier: Apache-2.0
"""Installs what pyproject.toml lists, into the interpreter that runs this file.

``python -I analysis/attnbench/extras.py base build`` installs the dependencies and the extra
``build``; nothing happens when they are in place already (a stamp holds what was asked for last).
Needs the standard library only: it is what brings the rest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class SetupError(Exception):
    """A set-up step that failed; the message names the remedy."""


def requirements(extra: str, pyproject: Path = ROOT / "pyproject.toml") -> list[list[str]]:
    """The pip argument lists that install ``extra``; ``base`` means the dependencies themselves."""
    table = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = table["project"]
    extras = project["optional-dependencies"]
    if extra != "base" and extra not in extras:
        raise SetupError(f"pyproject.toml has no extra {extra!r}; it has {', '.join(extras)}")
    commands = [list(project["dependencies"] if extra == "base" else extras[extra])]
    if bare := table["tool"]["attnbench"]["no-deps"].get(extra):
        commands.append(["--no-deps", *bare])
    return commands


def stamp(extra: str) -> Path:
    """The file that says what was installed for ``extra`` last."""
    return Path(sys.prefix) / "attnbench" / extra


def installed(extra: str) -> bool:
    """Whether ``extra`` was installed as pyproject.toml has it now."""
    try:
        return stamp(extra).read_text(encoding="utf-8") == repr(requirements(extra))
    except OSError:
        return False


def install(extra: str) -> None:
    """Installs ``extra`` unless it is in place. Raises SetupError, with the log's name."""
    if installed(extra):
        return
    if os.environ.get("ATTNBENCH_OFFLINE") == "1":
        raise SetupError(
            f"the Python packages of {extra!r} are not installed and --offline forbids downloads"
        )
    names = [name for command in requirements(extra) for name in command if name[0] != "-"]
    print(f"attnbench: installing Python packages: {' '.join(names)}", file=sys.stderr, flush=True)
    log = ROOT / "build" / "setup" / f"pip-{extra}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        for command in requirements(extra):
            pip = [sys.executable, "-m", "pip", "install", "--no-input", *command]
            if subprocess.run(pip, stdout=output, stderr=subprocess.STDOUT).returncode != 0:
                output.flush()
                tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
                raise SetupError("\n".join([*tail, f"pip failed; the whole output is in {log}"]))
    stamp(extra).parent.mkdir(exist_ok=True)
    stamp(extra).write_text(repr(requirements(extra)), encoding="utf-8")


def kernels_of(experiment: Path) -> set[str]:
    """The kernels that an experiment file names; empty where it is no TOML (the harness says)."""
    try:
        entries = tomllib.loads(experiment.read_text(encoding="utf-8")).get("kernel", [])
    except (OSError, ValueError):
        return set()
    if not isinstance(entries, list):
        return set()
    names = [e["name"] for e in entries if isinstance(e, dict) and "name" in e]
    return {n for name in names for n in (name if isinstance(name, list) else [name])}


def main(argv: list[str]) -> int:
    """Installs the extras named; 1 with a message when one cannot be."""
    try:
        for extra in argv:
            install(extra)
    except SetupError as error:
        print(f"attnbench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
