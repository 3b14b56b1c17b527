// SPDX-License-Identifier: Apache-2.0
// Test plugin: whatever runs over ranks loses rank 1, a moment after it has started.
#include <unistd.h>

#include <cstdlib>
#include <string_view>

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

// SIGALRM ends a process that does not expect it.
[[maybe_unused]] const bool doomed = [] {
  const char* const rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (rank && std::string_view(rank) == "1") alarm(1);
  return true;
}();

ATTN_KERNEL(
        .name = "ranks", .idea = "test: rank 1 dies, whatever kernel it runs",
        .refuse = [](const Problem&, const Options&) { return std::string("test"); },
        .run = [](const Problem&, const Inputs&, const Output&, const Context&) {});

}  // namespace
}  // namespace attnbench
