// SPDX-License-Identifier: Apache-2.0
// Test plugin: gives zeros, which no softmax average of random values is.

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

void Run(const Problem& p, const Inputs&, const Output& out, const Context&) {
  for (Index b = 0; b < p.batch; ++b)
    for (Index h = 0; h < p.heads; ++h)
      for (Index i = 0; i < p.queries; ++i)
        for (Index c = 0; c < p.v_dim; ++c) out.out.Set(b, h, i, c, 0);
}
ATTN_KERNEL(
        .name = "wrong", .idea = "test: wrong result",
        .refuse = [](const Problem& p, const Options&) { return Unserved(p, {}); }, .run = Run);

}  // namespace
}  // namespace attnbench
