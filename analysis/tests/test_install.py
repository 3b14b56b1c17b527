# SPDX-License-Identifier: Apache-2.0
"""An installed prefix serves others: the project of docs/install.md finds the kernels and runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from attnbench.places import PROGRAMS, ROOT

BUILD = ROOT / "build" / "release"


def run(*arguments: object) -> str:
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (PROGRAMS / "attnbench-bench").exists() or shutil.which("cmake") is None:
        pytest.skip("the release build is not there")
    folder = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", BUILD, "--prefix", folder)
    return folder


def test_the_consumer_of_the_page_links_every_kernel(prefix: Path, tmp_path: Path) -> None:
    if not (prefix / "lib" / "cmake" / "attnbench" / "attnbenchConfig.cmake").exists():
        pytest.skip("Highway was fetched into the build: no package is exported")
    page = (ROOT / "docs" / "install.md").read_text()
    (project,) = re.findall(r"^```cmake\n(.*?)^```", page, re.M | re.S)
    assert len(project.splitlines()) == 5
    (tmp_path / "CMakeLists.txt").write_text(project)
    (program,) = re.findall(r"^```cpp\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "consumer.cc").write_text(program)
    build = tmp_path / "build"
    run("cmake", "-S", tmp_path, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", build)
    kernels = run(build / "consumer").split()
    assert {"flash", "naive", "reference", "local_window"} <= set(kernels)
    for path in (ROOT / "kernels").glob("*.cc"):
        assert "\nATTN_KERNEL(" not in path.read_text() or path.stem in kernels


def test_a_plugin_builds_against_the_prefix_and_other_headers_are_refused(
    prefix: Path, tmp_path: Path
) -> None:
    from attnbench import new

    (tmp_path / "mine.cc").write_text(new.TEMPLATE.format(name="mine"))
    headers = next(prefix.rglob("attnbench.cmake")).parent
    text = new.CMAKE_TEMPLATE.format(name="mine", cmake=headers)
    (tmp_path / "CMakeLists.txt").write_text(text)
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build")
    run("cmake", "--build", tmp_path / "build")
    shared = tmp_path / "build" / "mine.so"
    assert "mine" in run(PROGRAMS / "attnbench-harness", "list", "--plugin", shared)

    header = prefix / "include" / "attnbench" / "kernels" / "contract" / "tensor.h"
    header.write_text(header.read_text() + "// another contract\n")
    run("cmake", "--build", tmp_path / "build", "--clean-first")
    done = subprocess.run(
        [PROGRAMS / "attnbench-harness", "list", "--plugin", shared], capture_output=True, text=True
    )
    assert done.returncode == 2 and "rebuild it against these headers" in done.stderr
    assert done.stderr.count("\n") == 1
