// SPDX-License-Identifier: Apache-2.0
// Measures one case in this process: check, then time; or, in a pass of its own, memory. What
// comes back are the measured fields of a record (results/SCHEMA.md).
#pragma once

#include <nlohmann/json.hpp>

#include "harness/case.h"
#include "harness/sampling.h"
#include "kernels/ranks.h"

namespace attnbench {

struct MeasureSettings {
  bool check = true;  // compare with the oracle first
  Index check_rows = 64;
  bool probe = true;  // ceilings right before and after
  SamplingSettings sampling = {};
};
// Unknown fields are ignored. Throws std::invalid_argument naming the field that is out of range.
MeasureSettings MeasureSettingsFromJson(const nlohmann::json& json);

// status ok | refused | incorrect; samples_ns, median_ns, ci95_ns, stop, flags, plan_ns, select_ns,
// total_ns, useful, executed, workspace_bytes, error, ..., counters, gflops, ceiling_gflops,
// fraction_of_ceiling.
nlohmann::json MeasureCase(const Case& test_case, const MeasureSettings& settings);
// status; peak_rss_bytes, workspace_bytes, tensor_bytes; flags where the kernel took more than its
// workspace.
nlohmann::json MeasureMemory(const Case& test_case);
// What the kernel claims of the case, without running it: refusal, workspace_bytes, executed.
nlohmann::json AskClaims(const Case& test_case);

// What measuring over ranks has in common with it. Probes are taken beside the case.
struct Probes {
  std::vector<double> gflops, gbps;
};
nlohmann::json ToJson(const Cost& cost);
void SamplesInto(nlohmann::json* record, const Samples& samples);  // and flags
void RateInto(nlohmann::json* record, const Cost& useful, double total_ns, const Probes& probes);
nlohmann::json PartsOf(const Ranks::Parts& parts);  // a run's mean
// `parts` (a number a rank each) and `bytes_sent`, from PartsOf every rank.
void PartsInto(nlohmann::json* record, const std::vector<nlohmann::json>& ranks);

// What a call into the host costs, for kernels hosted in Python; null where there is no host.
extern double (*hosted_call_overhead_ns)();

}  // namespace attnbench
