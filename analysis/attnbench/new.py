# SPDX-License-Identifier: Apache-2.0
"""Starts a kernel: one file in kernels/, correct from the first build on, yours to make fast."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

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
  for (Index j = 0; j < p.keys; ++j) {{
    const float* k = in.k.Row<float>(b, p.KvHead(h), j);
    float dot = 0;
    for (Index c = 0; c < p.head_dim; ++c) dot += q[c] * k[c];
    logits[j] = p.Admits(i, j) ? static_cast<float>(p.scale) * dot
                               : -std::numeric_limits<float>::infinity();
    max = std::max(max, logits[j]);
  }}
  std::fill_n(out, p.v_dim, 0.f);
  if (max == -std::numeric_limits<float>::infinity()) return;  // a row that admits no key: zero
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the kernel's name and the file's stem, as local_window")


def main(args: argparse.Namespace) -> int:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", args.name):
        print(
            f"attnbench new: NAME: must be lower_case letters, digits and underscores, "
            f"is {args.name!r}",
            file=sys.stderr,
        )
        return 2
    path = ROOT / "kernels" / f"{args.name}.cc"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=args.name))
    except FileExistsError:
        print(f"attnbench new: NAME: {path} exists already", file=sys.stderr)
        return 2
    print(
        f"{path}\n"
        f"  attnbench check -k {args.name}    compares it with the oracle over every edge shape\n"
        f"  attnbench sweep -k {args.name}    measures it"
    )
    return 0
