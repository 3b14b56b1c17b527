// SPDX-License-Identifier: Apache-2.0
#include "harness/predict.h"

#include <cmath>
#include <cstdio>

#include "harness/inputs.h"
#include "kernels/ranks.h"

namespace attnbench {
namespace {

// Per thread; only used where nothing of the kernel has been measured yet.
constexpr double kGuessedWorkPerSecond = 1e10;
// A vectorised exponential costs about as much as ten multiply-adds.
constexpr double kFlopsPerExp = 10;

}  // namespace

Demand DemandOf(const Case& c) {
  Demand demand;
  Cost cost;
  Options options;
  const Kernel* kernel = FindKernel(c.kernel);
  const bool native = kernel && ResolveOptions(c, *kernel, &options).empty();
  demand.tensor_bytes = TensorBytes(kernel, c.problem, options);
  if (native) {
    if (c.ranks > 1 && DistributionOf(*kernel))
      for (int rank = 0; rank < c.ranks; ++rank)
        demand.workspace_bytes += static_cast<double>(
            DistributionOf(*kernel)->workspace(c.problem, options, c.threads, c.ranks, rank));
    else if (kernel->workspace)
      demand.workspace_bytes =
          static_cast<double>(kernel->workspace(c.problem, options, c.threads));
    cost = kernel->executed ? kernel->executed(c.problem, options)
                            : UsefulOf(*kernel, c.problem, options);
  } else {
    cost = c.problem.Useful();
  }
  demand.work = cost.flops + kFlopsPerExp * cost.exps;
  return demand;
}

std::string Family(const Case& c) {
  const nlohmann::json family = {c.kernel,
                                 c.options,
                                 Name(c.problem.dtype),
                                 Name(c.problem.score),
                                 c.threads,
                                 c.ranks,
                                 c.cache,
                                 Name(c.problem.mask.pattern),
                                 c.problem.mask.causal,
                                 Name(c.problem.layer.encoding),
                                 c.problem.layer.attention};
  return family.dump();
}

void TimePredictor::Learn(const std::string& family, double work, double run_s, Index keys) {
  families_[family].insert_or_assign(work, Measured{run_s, keys});
}

std::optional<TimePredictor::Prediction> TimePredictor::FromSmaller(const std::string& family,
                                                                    double work) const {
  const auto found = families_.find(family);
  if (found == families_.end()) return {};
  auto it = found->second.upper_bound(work);
  if (it == found->second.begin()) return {};
  --it;
  return Prediction{it->second.run_s * work / it->first, it->second.keys};
}

double TimePredictor::RunSeconds(const std::string& family, double work, int threads) const {
  if (const auto prediction = FromSmaller(family, work)) return prediction->run_s;
  return work / (kGuessedWorkPerSecond * threads);
}

namespace {

// Three digits: the next unit from 1000 on, also where it is 1024 of this one.
std::string Scaled(double value, const char* const* units, int count, double step) {
  int unit = 0;
  while (unit + 1 < count && std::abs(value) >= 999.5) value /= step, ++unit;
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g %s", value, units[unit]);
  return text;
}

}  // namespace

std::string FormatBytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  return Scaled(bytes, kUnits, 6, 1024);
}

std::string FormatSeconds(double seconds) {
  if (seconds >= 1) {
    char text[32];
    std::snprintf(text, sizeof(text), seconds < 1000 ? "%.3g s" : "%.0f s", seconds);
    return text;
  }
  static constexpr const char* kUnits[] = {"ns", "us", "ms"};
  return Scaled(seconds * 1e9, kUnits, 3, 1000);
}

}  // namespace attnbench
