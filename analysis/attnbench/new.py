# SPDX-License-Identifier: Apache-2.0
"""Starts a kernel, correct from the first build on, yours to make fast.

In the tree it is one file in kernels/. With --plugin it is a folder of its own, NAME/, that builds
a shared object for sweep --plugin; with --python it is NAME.py, for the same option.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

from attnbench.places import CMAKE, IN_TREE, ROOT

TEMPLATE = """\
// SPDX-License-Identifier: Apache-2.0
// {name}: what the idea is, in a sentence or two.
//
// Paper: who, when, and the section.
// Cost: time and memory in n (queries, keys), d (head_dim), w (window).
// Tried and lost: what did not help, and by how much.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/contract/kernel.h"

namespace attnbench {{
namespace {{

// One row of logits for every thread.
std::size_t Workspace(const Problem& problem, const Options&, int threads) {{
  return static_cast<std::size_t>(threads) * (problem.keys * sizeof(float) + 64);
}}

void Row(const Problem& p, const Inputs& in, const Output& output, Index b, Index h, Index i,
         float* logits) {{
  const float* q = in.q.Row<float>(b, h, i);
  float* out = output.out.Row<float>(b, h, i);
  float max = -std::numeric_limits<float>::infinity();
  bool admitted = false;
  for (Index j = 0; j < p.keys; ++j) {{
    if (!p.Admits(i, j)) continue;
    admitted = true;
    const float* k = in.k.Row<float>(b, p.KvHead(h), j);
    float dot = 0;
    for (Index c = 0; c < p.head_dim; ++c) dot += q[c] * k[c];
    logits[j] = static_cast<float>(p.scale) * dot;
    max = std::max(max, logits[j]);
  }}
  std::fill_n(out, p.v_dim, 0.f);
  if (!admitted) return;  // such a row is zero; one of NaN is not
  float sum = 0;
  for (Index j = 0; j < p.keys; ++j) {{
    if (!p.Admits(i, j)) continue;
    const float weight = std::exp(logits[j] - max);
    const float* v = in.v.Row<float>(b, p.KvHead(h), j);
    sum += weight;
    for (Index c = 0; c < p.v_dim; ++c) out[c] += weight * v[c];
  }}
  for (Index c = 0; c < p.v_dim; ++c) out[c] /= sum;
}}

void Run(const Problem& p, const Inputs& in, const Output& output, const Context& context) {{
  const Index rows = p.batch * p.heads * p.queries;
#pragma omp parallel num_threads(context.threads)
  {{
    const Index stride = (p.keys + 15) / 16 * 16;
    float* logits =
        reinterpret_cast<float*>(context.workspace) + stride * omp_get_thread_num();
#pragma omp for schedule(static)
    for (Index row = 0; row < rows; ++row)
      Row(p, in, output, row / (p.heads * p.queries), row / p.queries % p.heads, row % p.queries,
          logits);
  }}
}}

ATTN_KERNEL(.name = "{name}", .idea = "one line for lists and legends",
            .refuse = [](const Problem& p, const Options&) {{ return Unserved(p, {{}}); }},
            .workspace = Workspace, .run = Run);

}}  // namespace
}}  // namespace attnbench
"""


CMAKE_TEMPLATE = """\
# SPDX-License-Identifier: Apache-2.0
cmake_minimum_required(VERSION 3.25)
project({name} LANGUAGES CXX)
include({cmake}/attnbench.cmake)  # attnbench --cmakedir
attnbench_add_plugin({name} {name}.cc)
"""

PYTHON_TEMPLATE = '''\
# SPDX-License-Identifier: Apache-2.0
"""{name}: what the idea is, in a sentence or two. Who, when, and the section of the paper."""

import numpy as np

import attnbench


@attnbench.kernel(
    name="{name}",
    idea="one line for lists and legends",
    # What it solves exactly; all else is refused, by name. problem.admitted() holds the mask.
    refuse=attnbench.serves(
        dtypes=("f32",), patterns=("full", "local", "strided", "columns", "fixed"),
        causal="any", grouped_heads=True, sinks=True,
    ),
)
def attend(q, k, v, problem):
    """q [batch, heads, queries, head_dim], k and v [batch, kv_heads, keys, ...]: not to be written
    to. Returns a new [batch, heads, queries, v_dim] in their dtype; all of it is timed."""
    group = problem.heads // problem.kv_heads
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    logits = np.float32(problem.scale) * (q @ k.swapaxes(-1, -2))
    logits = np.where(problem.admitted(), logits, -np.inf)
    # A row that admits no key is zero.
    peak = np.nan_to_num(logits.max(-1, keepdims=True), neginf=0.0)
    weights = np.exp(logits - peak)
    total = weights.sum(-1, keepdims=True)
    return (weights @ v) / np.where(total == 0, 1, total)
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the kernel's name and the file's stem, as local_window")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--plugin", action="store_true", help="outside the tree: a folder that builds NAME.so"
    )
    kind.add_argument("--python", action="store_true", help="in Python: a file NAME.py")


def main(args: argparse.Namespace) -> int:
    name = args.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        return _error(f"NAME: must be lower_case letters, digits and underscores, is {name!r}")
    given = ""
    if args.python:
        files = {Path(f"{name}.py"): PYTHON_TEMPLATE.format(name=name)}
        given = f" --plugin {name}.py"
    elif args.plugin:
        files = {
            Path(name) / f"{name}.cc": TEMPLATE.format(name=name),
            Path(name) / "CMakeLists.txt": CMAKE_TEMPLATE.format(name=name, cmake=CMAKE),
        }
        given = f" --plugin {name}/build/{name}.so"
    elif IN_TREE:
        files = {ROOT / "kernels" / f"{name}.cc": TEMPLATE.format(name=name)}
    else:
        return _error(
            "there is no source tree here; --plugin or --python start a kernel outside it"
        )
    for path in files:
        if path.exists():
            return _error(f"NAME: {path} exists already")
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    steps = [(f"check -k {name}{given}", "compares it with the oracle over every edge shape"),
             (f"sweep -k {name}{given}", "measures it")]  # fmt: skip
    if args.plugin:
        print(f"  {_cmake()} -S {name} -B {name}/build && {_cmake()} --build {name}/build")
    width = max(len(step) for step, _ in steps)
    program = "attnbench"
    if IN_TREE:
        program = "./attnbench" if Path.cwd() == ROOT else str(ROOT / "attnbench")
    for step, words in steps:
        print(f"  {program} {step:{width}}  {words}")
    return 0


def _cmake() -> str:
    """By name; where the system has none, the one that a clone's set-up installs."""
    return "cmake" if shutil.which("cmake") or not IN_TREE else str(ROOT / ".venv/bin/cmake")


def _error(message: str) -> int:
    print(f"attnbench new: {message}", file=sys.stderr)
    return 2
