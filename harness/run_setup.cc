// SPDX-License-Identifier: Apache-2.0
#include "harness/run_setup.h"

#include <utility>

namespace attnbench {

Buffer WorkspaceOf(const Kernel& kernel, const Problem& problem, const Options& options,
                   int threads) {
  return Buffer(kernel.workspace ? kernel.workspace(problem, options, threads) : 0);
}

RunSetup::RunSetup(const Kernel& kernel, const Problem& problem, const Options& options,
                   const Inputs& inputs, int threads, std::byte* workspace,
                   std::shared_ptr<const void> plan)
    : plan_(std::move(plan)) {
  if (!plan_ && kernel.plan) plan_ = kernel.plan(problem, options, threads);
  context_ = {.threads = threads, .options = &options, .workspace = workspace, .plan = plan_.get()};
  if (!kernel.select) return;
  selected_ = kernel.select(problem, inputs, context_);
  context_.selected = &selected_;
}

}  // namespace attnbench
