// SPDX-License-Identifier: Apache-2.0
// When enough samples have been taken: one small class a reason. None looks at another kernel, so
// that no comparison is stopped because it has just become significant.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace attnbench {

double Median(std::vector<double> values);

struct MedianInterval {
  double median = 0, low = 0, high = 0;  // low, high: 95 % by order statistics
};
// Fewer than six samples cannot give 95 %: low and high are then the extremes.
MedianInterval MedianWithInterval(std::vector<double> samples);

// What a rule is asked with, after every batch.
struct SamplingState {
  const std::vector<double>& samples_ns;
  MedianInterval interval;
  double elapsed_s = 0, sample_s = 0;  // of sampling so far; of one sample
};

class StopRule {
 public:
  virtual ~StopRule() = default;
  virtual const char* reason() const = 0;  // `stop` of the record
  virtual bool Enough(const SamplingState& state) = 0;
};

// The median's 95 % interval is narrower than `target`, relatively.
class PrecisionReached : public StopRule {
 public:
  explicit PrecisionReached(double target) : target_(target) {}
  const char* reason() const override { return "precision"; }
  bool Enough(const SamplingState& state) override;

 private:
  double target_;
};

// The samples' own spread (interquartile range over median) no longer moves while their number
// doubled, and at the rate at which an interval narrows, 1 / sqrt(samples), the time that is left
// cannot reach the target: sampling on would buy nothing that another round does not buy better.
class NoisePlateau : public StopRule {
 public:
  NoisePlateau(double target, double max_seconds) : target_(target), max_seconds_(max_seconds) {}
  const char* reason() const override { return "plateau"; }
  bool Enough(const SamplingState& state) override;

 private:
  static constexpr std::size_t kFewest = 24;  // whose quartiles mean something
  static constexpr double kSettled = 0.1;     // relative change of the spread over a doubling
  static constexpr double kHopeless = 1.25;   // times the target, at the end of the time
  struct Seen {
    std::size_t samples;
    double spread;
  };
  double target_, max_seconds_;
  std::vector<Seen> history_;
};

// One more sample does not fit.
class TimeOver : public StopRule {
 public:
  explicit TimeOver(double max_seconds) : max_seconds_(max_seconds) {}
  const char* reason() const override { return "time"; }
  bool Enough(const SamplingState& state) override;

 private:
  double max_seconds_;
};

struct StopSettings {
  double target_interval = 0.02;  // relative width of the median's 95 % interval that is enough
  bool plateau = true;            // stop early where that cannot be reached
  double max_seconds = 1.0;       // of sampling
};
// In the order in which they are asked.
std::vector<std::unique_ptr<StopRule>> MakeStopRules(const StopSettings& settings);

}  // namespace attnbench
