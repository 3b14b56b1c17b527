// SPDX-License-Identifier: Apache-2.0
// Test plugin: dies of a segmentation fault in run.
#include <csignal>

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

void Run(const Problem&, const Inputs&, const Output&, const Context&) { raise(SIGSEGV); }
ATTN_KERNEL(
        .name = "crash", .idea = "test: segmentation fault",
        .refuse = [](const Problem& p, const Options&) { return Unserved(p, {}); }, .run = Run);

}  // namespace
}  // namespace attnbench
