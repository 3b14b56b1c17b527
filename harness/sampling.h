// SPDX-License-Identifier: Apache-2.0
// The timing loop: a case made ready to run, and samples of it until a stop rule ends them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "harness/inputs.h"
#include "harness/stop_rule.h"
#include "kernels/contract/kernel.h"

namespace attnbench {

// What one case needs to run, made once: also the ring of copies for the cold cache.
struct Prepared {
  const Kernel* kernel = nullptr;
  Problem problem;
  Options options = {};
  int threads = 1;
  Buffer workspace = {};
  std::shared_ptr<const void> plan = {};
  std::vector<const OwnedInputs*> inputs = {};
  std::vector<OwnedOutput> outputs = {};
  std::vector<TileList> selected = {};
  std::size_t next = 0;

  Context MakeContext() const;
  void RunOnce();  // on the next inputs of the ring
};

struct SamplingSettings {
  StopSettings stop = {};
  int min_samples = 5;
  double warmup_seconds = 0.05;
};

struct Samples {
  std::vector<double> ns = {};  // of one run each
  Index runs_per_sample = 1;    // that the clock was read around
  std::string stop = {};        // the reason of the rule that ended it: precision, plateau, time
  bool warm = true;             // false: one run took longer than max_seconds and is the sample
  double waited_fraction = 0;   // of the time spent sampling, the processor served others
};

Samples Sample(Prepared* prepared, const SamplingSettings& settings);

}  // namespace attnbench
