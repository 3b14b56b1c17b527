# SPDX-License-Identifier: Apache-2.0
"""The launcher finds its own folder, and the Highway script the machine's Debian archive."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_help_comes_from_any_folder_and_through_links(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "direct").symlink_to(ROOT / "attnbench")
    (tmp_path / "bin" / "again").symlink_to("../direct")
    done = subprocess.run(
        [tmp_path / "bin" / "again"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: attnbench COMMAND")


@pytest.fixture
def bare(tmp_path):
    """A work tree with nothing set up."""
    for name in ("attnbench", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "cmake", tmp_path / "cmake")
    shutil.copytree(
        ROOT / "analysis",
        tmp_path / "analysis",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    return tmp_path


def test_offline_names_what_is_missing_and_stops(bare):
    done = subprocess.run(
        [bare / "attnbench", "sweep", "--offline"], capture_output=True, text=True, cwd=bare
    )
    assert done.returncode == 1
    assert "--offline forbids downloads" in done.stderr
    assert not (bare / "results").exists()
    # What was set up until then imports this tree's package.
    find = "import importlib.util; print(importlib.util.find_spec('attnbench').origin)"
    found = subprocess.run(
        [bare / ".venv" / "bin" / "python", "-c", find], capture_output=True, text=True, cwd="/",
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert found.stdout.strip() == str(bare / "analysis" / "attnbench" / "__init__.py")


def test_help_of_every_command_needs_no_set_up(bare):
    done = subprocess.run(
        [bare / "attnbench", "sweep", "--help"], capture_output=True, text=True, cwd=bare
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: attnbench sweep")
    assert not (bare / ".venv").exists()


DEB822 = """\
Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/own.gpg
"""
OTHER = "Types: deb\nURIs: http://mirror.example/node\nSuites: nodistro\nComponents: main\n"
ONE_LINE = """\
# deb http://old.example/debian bookworm main
deb http://mirror.example/debian-security bookworm-security main
deb [arch=amd64 signed-by=/usr/share/keyrings/own.gpg] http://mirror.example/debian bookworm main
"""
EXPECTED = """\
Types: deb-src
URIs: http://mirror.example/debian
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/own.gpg
"""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sources.list.d/a.sources": OTHER, "sources.list.d/debian.sources": DEB822}, EXPECTED),
        ({"sources.list": ONE_LINE}, EXPECTED),
        ({"sources.list": "", "sources.list.d/debian.list": ONE_LINE}, EXPECTED),
        ({"sources.list.d/a.sources": OTHER}, None),
    ],
)
def test_highways_source_comes_from_the_machines_own_archive(tmp_path, files, expected):
    for name, text in files.items():
        path = tmp_path / "apt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = subprocess.run(
        [ROOT / "cmake" / "highway.sh", tmp_path / "highway", "--sources-only"],
        capture_output=True,
        text=True,
        env=os.environ | {"ATTNBENCH_APT_ETC": str(tmp_path / "apt")},
    )
    if expected is None:
        assert done.returncode == 3
        assert "no Debian archive" in done.stderr
    else:
        assert (done.returncode, done.stdout) == (0, expected)
