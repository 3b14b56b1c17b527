// SPDX-License-Identifier: Apache-2.0
// Why a case is not run: the kernel refuses it, or it would take more memory or time than there is.
#pragma once

#include <string>

#include "harness/predict.h"

namespace attnbench {

struct Limits {
  double memory_bytes = 0;  // for one child
  double run_s = 0;         // for a single run
};
// memory_budget_gib of the experiment, or 80 % of what the machine allows.
Limits MakeLimits(double memory_budget_gib, double run_cap_s);

struct Objection {
  std::string status;  // "refused", "skipped", "failed"; empty: none
  std::string reason;
};
// Kernels hosted in Python are asked by their child. "failed" where a claim of the kernel throws,
// or kills the process that asks for it.
Objection Refusal(const Case& c);
Objection Guard(const Case& c, const Demand& demand, const TimePredictor& predictor,
                const Limits& limits);

}  // namespace attnbench
