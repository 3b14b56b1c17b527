// SPDX-License-Identifier: Apache-2.0
// Test plugin: never comes back from run.
#include <chrono>
#include <thread>

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

void Run(const Problem&, const Inputs&, const Output&, const Context&) {
  while (true) std::this_thread::sleep_for(std::chrono::seconds(1));
}
ATTN_KERNEL(
        .name = "hang", .idea = "test: endless run",
        .refuse = [](const Problem& p, const Options&) { return Unserved(p, {}); }, .run = Run);

}  // namespace
}  // namespace attnbench
