// SPDX-License-Identifier: Apache-2.0
// Test plugin: all threads add to one number. Not one result is right either, so that nobody takes
// its silence for health; built under the thread sanitizer only.
#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

void Run(const Problem&, const Inputs&, const Output& out, const Context& context) {
  float sum = 0;
#pragma omp parallel num_threads(context.threads) shared(sum)
  for (int i = 0; i < 1000; ++i) sum += 1;
  out.out.Set(0, 0, 0, 0, sum);
}

ATTN_KERNEL(
        .name = "races", .idea = "test: a data race",
        .refuse = [](const Problem& p, const Options&) { return Unserved(p, {}); }, .run = Run);

}  // namespace
}  // namespace attnbench
