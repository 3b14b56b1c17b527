# SPDX-License-Identifier: Apache-2.0
"""Kernels that are not in the tree: in Python by a decorator, in C++ by the installed headers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import attnbench
from attnbench import new, plugin
from attnbench.peer import Problem
from attnbench.places import PROGRAMS, ROOT

HARNESS = PROGRAMS / "attnbench-harness"
needs_harness = pytest.mark.skipif(not HARNESS.exists(), reason="the harness is not built")
FILE = """
import numpy as np
import attnbench

@attnbench.kernel(name="{name}", idea="two products", refuse=attnbench.serves())
def dense(q, k, v, problem):
    logits = np.float32(problem.scale) * (q @ k.swapaxes(-1, -2))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights @ v) / weights.sum(-1, keepdims=True) {spoilt}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "kernel.py"
    path.write_text(text)
    return path


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "analysis"), "ATTNBENCH_PYTHON": sys.executable,
    }  # fmt: skip
    return subprocess.run(
        list(map(str, arguments)), capture_output=True, text=True, env=environment, cwd=cwd,
        timeout=300,
    )  # fmt: skip


def dense(**changes: object) -> Problem:
    return Problem.from_json({"queries": 6, "head_dim": 4, "heads": 2} | changes)


def test_a_decorated_function_computes_and_refuses_by_its_claims(tmp_path: Path) -> None:
    (kernel,) = plugin.load(written(tmp_path, FILE.format(name="mine", spoilt="")))
    assert (kernel.name, kernel.idea) == ("mine", "two products")
    assert kernel.refusal(dense()) == ""
    assert "causal" in kernel.refusal(dense(mask={"causal": True}))
    assert "bf16" in kernel.refusal(dense(dtype="bf16"))
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 6, 4)).astype(np.float32)
    prepared = kernel.prepare(dense(), q, k, v, 1)
    prepared.run()
    assert np.allclose(prepared.output(), attnbench.attention(q, k, v), atol=1e-5)


# Also of names that mean something to Python, or to the file itself.
@pytest.mark.parametrize("name", ["mine", "np", "lambda"])
def test_what_new_writes_in_python_is_a_kernel_under_any_name(name: str, tmp_path: Path) -> None:
    (kernel,) = plugin.load(written(tmp_path, new.PYTHON_TEMPLATE.format(name=name)))
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 6, 4)).astype(np.float32)
    prepared = kernel.prepare(dense(), q, k, v, 1)
    prepared.run()
    assert kernel.name == name
    assert np.allclose(prepared.output(), attnbench.attention(q, k, v), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "declares no kernel"),
        ("def f(:", "line 1: SyntaxError"),
        ("import attnbench\n\n1 / 0", "line 3: ZeroDivisionError"),
        ("import attnbench\nattnbench.kernel(name='A', idea='x')", "line 2: ValueError: name"),
        (FILE.format(name="mine", spoilt="") * 2, "two kernels 'mine'"),
    ],
)
def test_a_file_that_is_no_plugin_says_why_in_a_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        plugin.load(written(tmp_path, text))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"name": "My", "idea": "x"}, "name"), ({"name": "my", "idea": ""}, "idea"),
     ({"name": "my", "idea": "x", "tensors": "jax"}, "tensors")],
)  # fmt: skip
def test_wrong_arguments_of_the_decorator_are_named(arguments: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named}: "):
        attnbench.kernel(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^patterns: 'window'"):
        attnbench.serves(patterns=("window",))


def test_a_function_that_returns_something_else_is_told_what() -> None:
    before = len(plugin._declared)
    attnbench.kernel(name="wrong", idea="x")(lambda q, k, v, problem: q.astype(np.float64))
    kernel = plugin._declared.pop(before)
    q = np.zeros((1, 2, 6, 4), np.float32)
    prepared = kernel.prepare(dense(), q, q, q, 1)
    prepared.run()
    with pytest.raises(ValueError, match=r"wrong: must return \[1, 2, 6, 4\] float32.*float64"):
        prepared.output()


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_torch_module_is_a_kernel(tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("torch")
    text = """
import attnbench, torch

class Attention(torch.nn.Module):
    def forward(self, q, k, v, problem):
        assert q.dtype in (torch.float32, torch.bfloat16) and not q.requires_grad
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=problem.scale)

claims = attnbench.serves(dtypes=("f32", "bf16"))
attnbench.kernel(name="module", idea="a module", refuse=claims, tensors="torch")(Attention())
"""
    (kernel,) = plugin.load(written(tmp_path, text))
    assert kernel.refusal(dense(dtype=dtype)) == "" and "torch" in kernel.packages
    assert "kv_heads" in kernel.refusal(dense(kv_heads=1))
    element = np.float32 if dtype == "f32" else ml_dtypes.bfloat16
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 6, 4)).astype(element)
    prepared = kernel.prepare(dense(dtype=dtype), q, k, v, 1)
    prepared.run()
    error = np.abs(prepared.output().astype(float) - attnbench.attention(q, k, v).astype(float))
    assert prepared.output().dtype == element and error.max() < (1e-5 if dtype == "f32" else 3e-2)


@needs_harness
def test_a_python_kernel_is_swept_listed_and_checked_as_any_other(tmp_path: Path) -> None:
    path = written(tmp_path, FILE.format(name="mine", spoilt=""))
    assert "mine" in run(HARNESS, "list", "--plugin", path).stdout
    out = tmp_path / "run"
    done = run(HARNESS, "sweep", ROOT / "experiments" / "quick.toml", "-k", "mine", "-k", "naive",
               "-a", "keys=32,64", "-a", "head_dim=16", "--budget", 6, "--plugin", path, "-o", out)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    mine = [r for r in records if r["kernel"] == "mine"]
    assert mine and {r["host"] for r in mine} == {"python"}
    assert {r["status"] for r in mine} == {"ok"} and all(r["error"] < 1e-5 for r in mine)
    assert {r["host"] for r in records if r["kernel"] == "naive"} == {"cpp"}
    # The run remembers where the kernel is: nothing is left to do.
    again = run(HARNESS, "sweep", "--resume", out, "--budget", 1)
    assert again.returncode == 0, again.stdout + again.stderr


@needs_harness
def test_a_wrong_python_kernel_is_found_out(tmp_path: Path) -> None:
    path = written(tmp_path, FILE.format(name="mine", spoilt="* np.float32(1.01)"))
    done = run(HARNESS, "check", "--plugin", path, "--fuzz", 0, "--every", 50)
    assert done.returncode == 1 and re.search(r"^FAIL mine", done.stdout, re.M)
    cases = re.match(r"(\d+) cases a kernel", done.stdout)
    assert cases and int(cases[1]) < 100, "a fiftieth of the shapes, in Python too"


@needs_harness
def test_checking_a_kernel_that_is_not_there_is_one_line_and_status_two() -> None:
    done = run(HARNESS, "check", "-k", "flush")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("attnbench: -k flush: unknown kernel 'flush' (known: ")
    assert done.stderr.count("\n") == 1


@needs_harness
@pytest.mark.parametrize(
    ("name", "words"), [("flash", "kernel 'flash' exists already"), ("Mine", "name: must be")]
)
def test_a_python_plugin_that_cannot_be_loaded_is_one_line_and_status_two(
    tmp_path: Path, name: str, words: str
) -> None:
    path = written(tmp_path, FILE.format(name=name, spoilt=""))
    done = run(HARNESS, "sweep", "--plugin", path, "-k", name, "-o", tmp_path / "run")
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    missing = run(HARNESS, "list", "--plugin", tmp_path / "none.py")
    assert missing.returncode == 2 and "no such file" in missing.stderr


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where `attnbench` is the command of this tree."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "attnbench"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m attnbench "$@"\n')
    command.chmod(0o755)
    return folder


def shell_blocks(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)


@needs_harness
@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake")
@pytest.mark.parametrize(
    ("page", "host", "name"),
    [("kernel_out_of_tree.md", "plugin", "my_plugin"),
     ("kernel_in_python.md", "python", "my_python_kernel")],
)  # fmt: skip
def test_the_page_works_when_it_is_followed_literally(
    page: str, host: str, name: str, tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    blocks = shell_blocks(page)
    assert blocks
    for block in blocks:
        done = run("bash", "-euc", block, cwd=tmp_path)
        assert done.returncode == 0, block + done.stdout + done.stderr
    records = (tmp_path / f"run_{host}" / "records.jsonl").read_text().splitlines()
    mine = [r for r in map(json.loads, records) if r["kernel"] == name]
    assert mine and {(r["host"], r["status"]) for r in mine} == {(host, "ok")}


@needs_harness
def test_the_functions_on_the_python_page_are_kernels(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    page = (ROOT / "docs" / "kernel_in_python.md").read_text()
    files = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert len(files) == 2
    names = [k.name for text in files for k in plugin.load(written(tmp_path, text))]
    assert names == ["my_dense", "my_module"]
