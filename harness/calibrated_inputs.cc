// SPDX-License-Identifier: Apache-2.0
#include "harness/calibrated_inputs.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "harness/inputs.h"

namespace attnbench {
namespace {

constexpr CalibratedHead kHeads[] = {
#include "harness/calibrated_heads.inc"
};

constexpr Index kMostPairs = 16;

// Columns: the sink's, then pairs, then content.
struct Columns {
  explicit Columns(const Problem& p)
      : pairs(std::min(kMostPairs, p.head_dim / 4)), content(p.head_dim - 1 - 2 * pairs) {}
  Index pairs, content;
};

// Half of what the scale takes from a logit, in each of q and k.
double Root(double logit, const Problem& p) {
  return std::sqrt(logit * std::sqrt(static_cast<double>(p.head_dim)));
}

// What q and k have in common: the turning pairs and the content of the row at a position.
void FillRow(const CalibratedHead& head, const Problem& p, double position, Random* random,
             std::vector<double>* row) {
  const Columns columns(p);
  // From one turn in two positions to one radian in all of them.
  const double high = std::numbers::pi, low = 1.0 / static_cast<double>(p.keys);
  const double ratio = std::log(high / low), steps = static_cast<double>(columns.pairs);
  const double turn = Root(head.locality * ratio / steps, p);
  for (Index f = 0; f < columns.pairs; ++f) {
    const double omega = high * std::exp(-ratio * (static_cast<double>(f) + 0.5) / steps);
    (*row)[1 + 2 * f] = turn * std::cos(omega * position);
    (*row)[2 + 2 * f] = turn * std::sin(omega * position);
  }
  const double spread = Root(head.deviation / std::sqrt(static_cast<double>(columns.content)), p);
  for (Index c = 0; c < columns.content; ++c)
    (*row)[1 + 2 * columns.pairs + c] = spread * random->Normal();
}

}  // namespace

std::span<const CalibratedHead> CalibratedHeads() { return kHeads; }

void FillCalibratedQueries(const CalibratedHead& head, const Problem& p, std::uint64_t stream,
                           const Tensor& q, Index batch, Index q_head) {
  Random random(stream);
  std::vector<double> row(p.head_dim);
  for (Index i = 0; i < p.queries; ++i) {
    row[0] = std::sqrt(static_cast<double>(p.head_dim));
    FillRow(head, p, static_cast<double>(i + p.keys - p.queries), &random, &row);
    for (Index c = 0; c < p.head_dim; ++c) q.Set(batch, q_head, i, c, row[c]);
  }
}

void FillCalibratedKeys(const CalibratedHead& head, const Problem& p, std::uint64_t stream,
                        const Tensor& k, Index batch, Index kv_head) {
  Random random(stream);
  std::vector<double> row(p.head_dim);
  const double longer = static_cast<double>(p.keys) / static_cast<double>(head.tokens);
  for (Index j = 0; j < p.keys; ++j) {
    row[0] = j == 0 ? head.sink + std::log(longer) : 0;
    FillRow(head, p, static_cast<double>(j), &random, &row);
    for (Index c = 0; c < p.head_dim; ++c) k.Set(batch, kv_head, j, c, row[c]);
  }
}

}  // namespace attnbench
