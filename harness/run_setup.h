// SPDX-License-Identifier: Apache-2.0
// What a run of a kernel needs beside its tensors, in the contract's order: plan, workspace, the
// tiles that it selects for these inputs. Set up once, run any number of times.
#pragma once

#include <cstddef>
#include <memory>

#include "harness/inputs.h"
#include "kernels/contract/kernel.h"

namespace attnbench {

// As large as the kernel asks for; content undefined.
Buffer WorkspaceOf(const Kernel& kernel, const Problem& problem, const Options& options,
                   int threads);

class RunSetup {
 public:
  // Problem, options and workspace outlive it. `plan`: one that was made before; null: its own.
  RunSetup(const Kernel& kernel, const Problem& problem, const Options& options,
           const Inputs& inputs, int threads, std::byte* workspace,
           std::shared_ptr<const void> plan = nullptr);
  RunSetup(const RunSetup&) = delete;  // the context points into it
  RunSetup& operator=(const RunSetup&) = delete;
  const Context& context() const { return context_; }

 private:
  std::shared_ptr<const void> plan_;
  TileList selected_;
  Context context_;
};

}  // namespace attnbench
