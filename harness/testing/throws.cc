// SPDX-License-Identifier: Apache-2.0
// Test plugin: throws out of run.
#include <stdexcept>

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

void Run(const Problem&, const Inputs&, const Output&, const Context&) {
  throw std::runtime_error("the kernel gives up");
}
ATTN_KERNEL(
        .name = "throws", .idea = "test: exception",
        .refuse = [](const Problem& p, const Options&) { return Unserved(p, {}); }, .run = Run);

}  // namespace
}  // namespace attnbench
