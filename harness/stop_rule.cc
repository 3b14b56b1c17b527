// SPDX-License-Identifier: Apache-2.0
#include "harness/stop_rule.h"

#include <algorithm>
#include <cmath>

namespace attnbench {
namespace {

double RelativeSpread(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const std::size_t n = samples.size();
  return (samples[(3 * n) / 4] - samples[n / 4]) / samples[n / 2];
}

}  // namespace

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

MedianInterval MedianWithInterval(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const int n = static_cast<int>(samples.size());
  MedianInterval interval{
      .median = Median(samples), .low = samples.front(), .high = samples.back()};
  // The number of samples under the median is binomial(n, 1/2): drop from both ends as long as the
  // tails that are cut off hold at most 2.5 % each.
  double term = std::pow(0.5, n), tail = 0;  // P(exactly k), P(at most k)
  if (term == 0) {                           // n > 1000: the normal approximation is exact enough
    const int k = static_cast<int>((n - 1.96 * std::sqrt(n)) / 2);
    interval.low = samples[k], interval.high = samples[n - 1 - k];
    return interval;
  }
  for (int k = 0; 2 * k < n; ++k) {
    tail += term;
    if (tail > 0.025) break;
    interval.low = samples[k], interval.high = samples[n - 1 - k];
    term *= static_cast<double>(n - k) / (k + 1);
  }
  return interval;
}

bool PrecisionReached::Enough(const SamplingState& state) {
  // An interval needs six samples to be one of 95 %.
  return state.samples_ns.size() >= 6 &&
         state.interval.high - state.interval.low <= target_ * state.interval.median;
}

bool NoisePlateau::Enough(const SamplingState& state) {
  const std::size_t n = state.samples_ns.size();
  if (n < kFewest / 2) return false;
  history_.push_back({n, RelativeSpread(state.samples_ns)});
  if (n < kFewest) return false;
  // The newest look at no more than half as many samples.
  const auto earlier = std::find_if(history_.rbegin(), history_.rend(),
                                    [&](const Seen& seen) { return 2 * seen.samples <= n; });
  if (earlier == history_.rend()) return false;
  const double now = history_.back().spread;
  if (std::abs(now - earlier->spread) > kSettled * now) return false;
  const double width = (state.interval.high - state.interval.low) / state.interval.median;
  const double all =
      static_cast<double>(n) + (max_seconds_ - state.elapsed_s) / std::max(state.sample_s, 1e-9);
  return width * std::sqrt(static_cast<double>(n) / all) > kHopeless * target_;
}

bool TimeOver::Enough(const SamplingState& state) {
  return max_seconds_ - state.elapsed_s < state.sample_s;
}

std::vector<std::unique_ptr<StopRule>> MakeStopRules(const StopSettings& settings) {
  std::vector<std::unique_ptr<StopRule>> rules;
  rules.push_back(std::make_unique<PrecisionReached>(settings.target_interval));
  if (settings.plateau)
    rules.push_back(std::make_unique<NoisePlateau>(settings.target_interval, settings.max_seconds));
  rules.push_back(std::make_unique<TimeOver>(settings.max_seconds));
  return rules;
}

}  // namespace attnbench
