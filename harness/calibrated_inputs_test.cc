// SPDX-License-Identifier: Apache-2.0
// Generated heads against what the real ones measure, by the definitions of calibrate.py.
#include "harness/calibrated_inputs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "harness/inputs.h"

namespace attnbench {
namespace {

// What generated heads may miss the real ones by.
constexpr double kEntropy = 0.3, kTopMass = 0.08, kExponent = 0.15, kFirstKey = 0.08;

struct Measures {
  double entropy = 0, top_mass = 0, exponent = 0, first_key = 0;
};

// Slope of the least squares line.
double Slope(const std::vector<double>& x, const std::vector<double>& y) {
  const double n = static_cast<double>(x.size());
  const double mx = std::accumulate(x.begin(), x.end(), 0.0) / n;
  const double my = std::accumulate(y.begin(), y.end(), 0.0) / n;
  double xy = 0, xx = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    xy += (x[i] - mx) * (y[i] - my), xx += (x[i] - mx) * (x[i] - mx);
  return xy / xx;
}

Measures MeasureHead(const CalibratedHead& head, Index n) {
  Problem p;
  p.queries = n, p.head_dim = head.head_dim;
  p.Resolve();
  std::vector<float> q(n * p.head_dim), k(n * p.head_dim);
  const auto view = [&](std::vector<float>& t) {
    return Tensor{t.data(), DType::kF32, n * p.head_dim, n * p.head_dim, p.head_dim};
  };
  FillCalibratedQueries(head, p, 11, view(q), 0, 0);
  FillCalibratedKeys(head, p, 12, view(k), 0, 0);
  constexpr Index kSinks = 4;
  const auto octaves = static_cast<std::size_t>(std::log2(static_cast<double>(n) / 2));
  std::vector<double> mass(octaves), pairs(octaves), weights(n);
  Measures m;
  for (Index i = 0; i < n; ++i) {
    double sum = 0, entropy = 0;
    for (Index j = 0; j < n; ++j) {
      const double dot = std::inner_product(&q[i * p.head_dim], &q[i * p.head_dim] + p.head_dim,
                                            &k[j * p.head_dim], 0.0);
      sum += weights[j] = std::exp(dot * p.scale);
    }
    for (Index j = 0; j < n; ++j) {
      weights[j] /= sum;
      if (weights[j] > 0) entropy -= weights[j] * std::log(weights[j]);
      const Index apart = std::abs(i - j);
      const auto octave = static_cast<std::size_t>(std::log2(std::max<double>(1, apart)));
      if (j >= kSinks && apart > 0 && octave < octaves)
        mass[octave] += weights[j], pairs[octave] += 1;
    }
    m.entropy += entropy / static_cast<double>(n);
    m.first_key += weights[0] / static_cast<double>(n);
    std::nth_element(weights.begin(), weights.begin() + n / 8, weights.end(), std::greater<>());
    m.top_mass +=
        std::accumulate(weights.begin(), weights.begin() + n / 8, 0.0) / static_cast<double>(n);
  }
  std::vector<double> x, y;
  for (std::size_t o = 0; o < octaves; ++o) {
    double middle = 0;
    for (Index apart = Index{1} << o; apart < Index{2} << o; ++apart)
      middle += std::log(apart) / static_cast<double>(Index{1} << o);
    x.push_back(middle), y.push_back(std::log(mass[o] / pairs[o]));
  }
  m.exponent = -Slope(x, y);
  return m;
}

TEST(CalibratedInputs, MeasureAsTheHeadsThatTheyAreFittedTo) {
  ASSERT_GE(CalibratedHeads().size(), 4u);
  for (const CalibratedHead& head : CalibratedHeads()) {
    const Measures m = MeasureHead(head, head.tokens);
    SCOPED_TRACE(std::string(head.model) + " " + std::to_string(head.layer) + "." +
                 std::to_string(head.head));
    EXPECT_NEAR(m.entropy, head.entropy, kEntropy);
    EXPECT_NEAR(m.top_mass, head.top_mass, kTopMass);
    EXPECT_NEAR(m.exponent, head.exponent, kExponent);
    EXPECT_NEAR(m.first_key, head.first_key, kFirstKey);
  }
}

TEST(CalibratedInputs, ASinkKeepsItsShareAsSequencesGrow) {
  const CalibratedHead* most = nullptr;
  for (const CalibratedHead& head : CalibratedHeads())
    if (!most || head.first_key > most->first_key) most = &head;
  ASSERT_GT(most->first_key, 0.1) << "no head of the table has a sink";
  EXPECT_NEAR(MeasureHead(*most, 4 * most->tokens).first_key, most->first_key, 0.12);
}

TEST(CalibratedInputs, HeadsAreThoseOfTheTableInTurnAndSharedKeysAreShared) {
  Problem p;
  p.queries = 40, p.head_dim = 16, p.heads = 4, p.kv_heads = 2;
  p.Resolve();
  InputSpec spec;
  spec.kind = "calibrated";
  const OwnedInputs a = OwnedInputs::Make(p, spec, 5), b = OwnedInputs::Make(p, spec, 5);
  const OwnedInputs other = OwnedInputs::Make(p, spec, 6);
  bool same = true, differs = false;
  for (Index c = 0; c < 16; ++c) {
    same &= a.view().q.At(0, 3, 39, c) == b.view().q.At(0, 3, 39, c);
    differs |= a.view().q.At(0, 3, 39, c) != other.view().q.At(0, 3, 39, c);
  }
  EXPECT_TRUE(same && differs);
  const auto table = CalibratedHeads();
  for (Index g = 0; g < 2; ++g)
    EXPECT_NEAR(a.view().k.At(0, g, 0, 0), table[g].sink + std::log(40.0 / table[g].tokens), 1e-5);
  spec.head = 1;
  const OwnedInputs one = OwnedInputs::Make(p, spec, 5);
  EXPECT_NEAR(one.view().k.At(0, 0, 0, 0), table[1].sink + std::log(40.0 / table[1].tokens), 1e-5);
}

}  // namespace
}  // namespace attnbench
