// SPDX-License-Identifier: Apache-2.0
// Test plugin: right, but reads a vector beyond its key and makes nothing of it.
#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

void Run(const Problem& p, const Inputs& in, const Output& out, const Context&) {
  for (Index b = 0; b < p.batch; ++b)
    for (Index h = 0; h < p.heads; ++h)
      for (Index i = 0; i < p.queries; ++i)
        for (Index c = 0; c < p.v_dim; ++c) out.out.Set(b, h, i, c, in.v.At(b, p.KvHead(h), 0, c));
  const volatile float* beyond = in.k.Row<float>(p.batch - 1, p.kv_heads - 1, 0) + p.head_dim + 16;
  [[maybe_unused]] const float unused = *beyond;
}

ATTN_KERNEL(
        .name = "overreads", .idea = "test: reads beyond a tensor",
        .refuse =
            [](const Problem& p, const Options&) {
              return p.keys == 1 && p.queries == 1 ? Unserved(p, {})
                                                   : std::string("not one of each");
            },
        .run = Run);

}  // namespace
}  // namespace attnbench
