// SPDX-License-Identifier: Apache-2.0
// Test plugin: right, but takes 64 MiB in run behind the contract's back.
#include <cmath>
#include <vector>

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

void Run(const Problem& p, const Inputs& in, const Output& out, const Context&) {
  std::vector<double> hoard((std::size_t{64} << 20) / sizeof(double), 1.0);
  std::vector<double> weights(p.keys);
  for (Index b = 0; b < p.batch; ++b)
    for (Index h = 0; h < p.heads; ++h)
      for (Index i = 0; i < p.queries; ++i) {
        double max = -INFINITY, sum = 0;
        for (Index j = 0; j < p.keys; ++j) {
          double logit = 0;
          for (Index c = 0; c < p.head_dim; ++c)
            logit += in.q.At(b, h, i, c) * in.k.At(b, p.KvHead(h), j, c);
          weights[j] = p.Admits(i, j) ? p.scale * logit : -INFINITY;
          max = std::max(max, weights[j]);
        }
        for (double& weight : weights) sum += weight = std::exp(weight - max);
        for (Index c = 0; c < p.v_dim; ++c) {
          double o = 0;
          for (Index j = 0; j < p.keys; ++j) o += weights[j] * in.v.At(b, p.KvHead(h), j, c);
          out.out.Set(b, h, i, c, hoard[i] * o / sum);
        }
      }
}

ATTN_KERNEL(
        .name = "allocates", .idea = "test: memory outside the workspace",
        .refuse =
            [](const Problem& p, const Options&) {
              return p.queries > p.keys ? std::string("more queries than keys") : Unserved(p, {});
            },
        .run = Run);

}  // namespace
}  // namespace attnbench
