# SPDX-License-Identifier: Apache-2.0
"""Two builds measured in turn: complete runs of one session, paired, and a real slowdown found."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

import pytest

from attnbench import cli, compare, interleave, records

EXPERIMENT = """
[sweep]
max_seconds_per_case = 0.01
repeat_slowed = false
[axes]
keys = [64, 96]
head_dim = 16
[[kernel]]
name = "naive"
"""


def harness() -> Path:
    try:
        return cli.harness()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    return compare.main(parser.parse_args(list(arguments)))


def test_a_build_is_found_by_its_folder_tree_or_program(tmp_path: Path) -> None:
    found = tmp_path / "build" / "release" / "harness" / interleave.NAME
    found.parent.mkdir(parents=True)
    found.write_text("")
    for given in (tmp_path, tmp_path / "build" / "release", found):
        assert interleave.program(given) == found
    with pytest.raises(ValueError, match="no build of attnbench"):
        interleave.program(tmp_path / "elsewhere")


def test_a_build_against_itself_pairs_every_visit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = tmp_path / "small.toml"
    experiment.write_text(EXPERIMENT)
    output = tmp_path / "both"
    status = command(
        "--run", str(harness()), str(harness()), "-e", str(experiment), "--rounds", "3",
        "-o", str(output), "--json",
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert status == int(found["regressed"]) and len(found["cases"]) == 2
    assert found["drift"] == 0, "of one session: nothing to carry"
    frames = [records.load(output / side) for side in ("old", "new")]
    assert [len(f) for f in frames] == [6, 6]
    assert len({s for f in frames for s in f["session"]}) == 1
    # In turn: no side is first throughout.
    started = [f.set_index(["case", "round"])["started"] for f in frames]
    first = started[0] < started[1]
    assert first.any() and not first.all()
    again = subprocess.run(
        [str(harness()), "sweep", "--resume", str(output / "old")], capture_output=True, text=True
    )
    assert again.returncode == 2 and "side of a comparison" in again.stderr


def test_each_side_is_measured_by_its_own_build(tmp_path: Path) -> None:
    """The same program under another build id stands for the older one."""
    version = subprocess.run([str(harness()), "version"], capture_output=True, text=True).stdout
    build = version.split("build ")[1].split(",")[0]
    content = harness().read_bytes()
    at = content.find(bytes.fromhex(build))
    if at < 0:
        pytest.skip("linked without a build id")
    older = tmp_path / interleave.NAME
    older.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    older.chmod(0o755)
    experiment = tmp_path / "small.toml"
    experiment.write_text(EXPERIMENT)
    sides = interleave.measure(
        older, harness(), str(experiment), tmp_path / "both", ["--rounds", "1"]
    )
    builds = [set(records.load(side)["build"]) for side in sides]
    assert builds[1] == {build} and builds[0] != builds[1]


def test_what_is_no_build_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--run", str(tmp_path), str(tmp_path)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    program = tmp_path / interleave.NAME
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    done = subprocess.run(
        [str(harness()), "sweep", "--against", str(program), "-o", str(tmp_path / "out")],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 2 and "is no attnbench-harness" in done.stderr
    assert not (tmp_path / "out").exists()
