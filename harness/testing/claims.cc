// SPDX-License-Identifier: Apache-2.0
// Test plugin: kernels that die or throw before they are ever run: in what they claim.
#include <csignal>
#include <stdexcept>

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

std::string Accept(const Problem&, const Options&) { return ""; }
void Run(const Problem&, const Inputs&, const Output&, const Context&) {}

ATTN_KERNEL(
        .name = "dies_in_refuse", .idea = "test: segmentation fault in refuse",
        .refuse = [](const Problem&, const Options&) -> std::string { return raise(SIGSEGV), ""; },
        .run = Run);
ATTN_KERNEL(
        .name = "dies_in_workspace", .idea = "test: segmentation fault in workspace",
        .refuse = Accept,
        .workspace = [](const Problem&, const Options&, int) -> std::size_t {
          return raise(SIGSEGV), 0;
        },
        .run = Run);
ATTN_KERNEL(
        .name = "throws_in_executed", .idea = "test: exception in executed", .refuse = Accept,
        .executed = [](const Problem&, const Options&) -> Cost {
          throw std::runtime_error("no idea of the cost");
        },
        .run = Run);

}  // namespace
}  // namespace attnbench
