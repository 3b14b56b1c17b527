// SPDX-License-Identifier: Apache-2.0
// Random problems on tensors that end where the memory does, by the code that is dispatched to
// here.
#include <gtest/gtest.h>
#include <signal.h>

#include "harness/testing.h"
#include "kernels/contract/kernel.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // whose allocators are theirs

namespace attnbench {
namespace {

Outcome FencedCheck(const std::string& arguments) {
  return Shell("LD_PRELOAD=" ATTNBENCH_TEST_PLUGINS "/attnbench_fence.so " ATTNBENCH_HARNESS
               " check " +
               arguments);
}

TEST(Fence, NoKernelTouchesWhatLiesBeyondItsTensors) {
  std::string named;
  for (const std::vector<const Kernel*>& kernels : {Kernels(), Layers()})
    for (const Kernel* kernel : kernels)  // BLIS 0.9 does: see blis_blocked.cc
      if (!kernel->target || kernel->target().find("blis") == std::string::npos)
        named.append(" -k ").append(kernel->name);
  const Outcome outcome = FencedCheck("--fuzz 40 --every 30" + named);
  EXPECT_EQ(outcome.status, 0) << outcome.output;  // its seed is in the first line
}

TEST(Fence, OneThatDoesIsFound) {
  const std::string arguments =
      "-k overreads --fuzz 0 --plugin " ATTNBENCH_TEST_PLUGINS "/attnbench_test_overreads.so";
  EXPECT_EQ(FencedCheck(arguments).status, 128 + SIGSEGV);
  EXPECT_EQ(Harness("check " + arguments).status, 0) << "which nothing else would have found";
}

}  // namespace
}  // namespace attnbench

#endif
