// SPDX-License-Identifier: Apache-2.0
#include "harness/stop_rule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "harness/inputs.h"

namespace attnbench {
namespace {

// Samples of 1 ms with this relative noise, until a rule ends them: reason and how many.
std::pair<std::string, std::size_t> Sampled(const StopSettings& settings, double noise,
                                            std::uint64_t seed = 1) {
  Random random(seed);
  const auto rules = MakeStopRules(settings);
  std::vector<double> samples;
  while (true) {
    const std::size_t batch = std::max<std::size_t>(5, samples.size() / 2);
    for (std::size_t i = 0; i < batch; ++i) samples.push_back(1e6 * (1 + noise * random.Normal()));
    const SamplingState state{samples, MedianWithInterval(samples),
                              1e-3 * static_cast<double>(samples.size()), 1e-3};
    for (const auto& rule : rules)
      if (rule->Enough(state)) return {rule->reason(), samples.size()};
  }
}

TEST(StopRule, QuietSamplesEndByPrecision) {
  EXPECT_EQ(Sampled({.target_interval = 0.02}, 0.001).first, "precision");
  EXPECT_LE(Sampled({.target_interval = 0.02}, 0.001).second, 10u);
}

TEST(StopRule, NoiseThatCanBeAveragedAwayIs) {
  // 3 % of noise: an interval of 2 % takes about 60 samples, and there is time for 1000.
  for (std::uint64_t seed = 1; seed <= 20; ++seed)
    EXPECT_EQ(Sampled({.target_interval = 0.02}, 0.03, seed).first, "precision") << seed;
}

TEST(StopRule, NoiseThatCannotBeEndsAtThePlateauEarly) {
  // 50 % of noise: an interval of 2 % would take 15000 samples, and there is time for 1000.
  int plateau = 0;
  std::size_t samples = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const auto [reason, count] = Sampled({.target_interval = 0.02}, 0.5, seed);
    plateau += reason == "plateau";
    samples += count;
  }
  EXPECT_GE(plateau, 18);
  EXPECT_LT(samples / 20, 500u);
  EXPECT_EQ(Sampled({.target_interval = 0.02, .plateau = false}, 0.5).first, "time");
}

TEST(StopRule, NoiseThatStillGrowsIsNoPlateau) {
  // Each batch twice as wide as the last: nothing has settled.
  NoisePlateau rule(0.02, 1);
  std::vector<double> samples;
  Random random(3);
  for (double noise = 0.05; samples.size() < 200; noise *= 2) {
    for (int i = 0; i < 12; ++i) samples.push_back(100 * std::exp(noise * random.Normal()));
    EXPECT_FALSE(rule.Enough({samples, MedianWithInterval(samples), 0.5, 1e-3}) && noise < 0.7);
  }
}

TEST(StopRule, TimeEndsEverything) {
  TimeOver rule(1);
  const std::vector<double> samples = {1};
  EXPECT_FALSE(rule.Enough({samples, {}, 0.5, 0.4}));
  EXPECT_TRUE(rule.Enough({samples, {}, 0.5, 0.6}));
}

}  // namespace
}  // namespace attnbench
