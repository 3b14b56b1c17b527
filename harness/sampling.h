// SPDX-License-Identifier: Apache-2.0
// The timing loop: a case made ready to run, samples of it until a stop rule ends them, and the
// median's interval that the rule asks for.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "harness/inputs.h"
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
  double target_interval = 0.02;  // stop when the median's 95 % interval is narrower, relatively
  int min_samples = 5;
  double max_seconds = 1.0;  // of sampling
  double warmup_seconds = 0.05;
};

struct Samples {
  std::vector<double> ns = {};  // of one run each
  Index runs_per_sample = 1;    // that the clock was read around
  std::string stop = {};        // precision, time
  bool warm = true;             // false: one run took longer than max_seconds and is the sample
  double waited_fraction = 0;   // of the time spent sampling, the processor served others
};

Samples Sample(Prepared* prepared, const SamplingSettings& settings);

double Median(std::vector<double> values);

struct MedianInterval {
  double median = 0, low = 0, high = 0;  // low, high: 95 % by order statistics
};
// Fewer than six samples cannot give 95 %: low and high are then the extremes.
MedianInterval MedianWithInterval(std::vector<double> samples);

}  // namespace attnbench
