// SPDX-License-Identifier: Apache-2.0
#include "harness/guards.h"

#include "harness/launch.h"
#include "harness/machine.h"
#include "kernels/ranks.h"

namespace attnbench {

Limits MakeLimits(double memory_budget_gib, double run_cap_s) {
  constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
  const double budget = memory_budget_gib > 0 ? memory_budget_gib * kGiB
                                              : 0.8 * static_cast<double>(MemoryLimitBytes());
  return {budget, run_cap_s};
}

namespace {

std::string RefusalOfRanks(const Kernel& kernel, const Case& c, const Options& options) {
  const Distribution* const distribution = DistributionOf(kernel);
  if (!distribution)
    return "ranks: it runs in one process; ring and ulysses share a problem among ranks";
  if (c.cache != "warm") return "cache: over ranks only 'warm' is measured";
  const std::string reason = distribution->refuse(c.problem, options, c.ranks);
  return reason.empty() ? NoRanks() : reason;
}

}  // namespace

Objection Refusal(const Case& c) {
  const Kernel* kernel = FindKernel(c.kernel);
  if (!kernel && c.ranks > 1) return {"refused", "ranks: it is hosted in one Python process"};
  if (!kernel || !kernel->refuse) return {};
  try {
    Options options;
    std::string reason = ResolveOptions(c, *kernel, &options);
    if (reason.empty()) reason = kernel->refuse(c.problem, options);
    if (reason.empty() && c.ranks > 1) reason = RefusalOfRanks(*kernel, c, options);
    if (!reason.empty()) return {"refused", reason};
    DemandOf(c);  // asks for the other claims
    return {};
  } catch (const std::exception& e) {
    return {"failed", e.what()};
  }
}

Objection Guard(const Case& c, const Demand& demand, const TimePredictor& predictor,
                const Limits& limits) {
  if (demand.bytes() > limits.memory_bytes)
    return {"skipped", "predicted memory " + FormatBytes(demand.bytes()) + " (tensors " +
                           FormatBytes(demand.tensor_bytes) + ", workspace " +
                           FormatBytes(demand.workspace_bytes) + ") is over the budget of " +
                           FormatBytes(limits.memory_bytes)};
  if (const auto predicted = predictor.FromSmaller(Family(c), demand.work);
      predicted && predicted->run_s > limits.run_s)
    return {"skipped", "predicted time " + FormatSeconds(predicted->run_s) +
                           " a run (from keys=" + std::to_string(predicted->from_keys) +
                           ") is over the cap of " + FormatSeconds(limits.run_s)};
  return {};
}

}  // namespace attnbench
