// SPDX-License-Identifier: Apache-2.0
// Test plugin: dies as on a processor that lacks the instruction set.

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

void Run(const Problem&, const Inputs&, const Output&, const Context&) { __builtin_trap(); }
ATTN_KERNEL(
        .name = "illegal", .idea = "test: illegal instruction",
        .refuse = [](const Problem& p, const Options&) { return Unserved(p, {}); }, .run = Run);

}  // namespace
}  // namespace attnbench
