// SPDX-License-Identifier: Apache-2.0
// Test plugin: takes memory until there is none, touching all of it.
#include <memory>
#include <vector>

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

void Run(const Problem&, const Inputs&, const Output&, const Context&) {
  std::vector<std::unique_ptr<char[]>> held;
  while (true) {
    held.emplace_back(new char[std::size_t{16} << 20]);
    for (std::size_t i = 0; i < std::size_t{16} << 20; i += 4096) held.back()[i] = 1;
  }
}
ATTN_KERNEL(
        .name = "exhausts", .idea = "test: unbounded memory",
        .refuse = [](const Problem& p, const Options&) { return Unserved(p, {}); }, .run = Run);

}  // namespace
}  // namespace attnbench
