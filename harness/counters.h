// SPDX-License-Identifier: Apache-2.0
// Counters of the processor and the kernel over a few runs, through perf_event_open. What is not
// permitted or not there (virtual machines, containers) is null, and the reason says why.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace attnbench {

struct Counted {
  // instructions, cycles, cache_misses, branch_misses, page_faults, context_switches: of one run,
  // summed over the threads; null where it cannot be counted.
  nlohmann::json values = nullptr;
  std::string reason = {};  // why any is null
};
// Counts on the OpenMP team of `threads`; `run` must use no other threads.
Counted CountRuns(int threads, int runs, const std::function<void()>& run);

}  // namespace attnbench
