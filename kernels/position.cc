// SPDX-License-Identifier: Apache-2.0
#include "kernels/position.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace attnbench {
namespace {

constexpr double kBase = 10000;

double Frequency(Index pair, Index width) {
  return std::pow(kBase, -2.0 * static_cast<double>(pair) / static_cast<double>(width));
}

}  // namespace

double Sinusoid(Index position, Index column, Index width) {
  const double angle = static_cast<double>(position) * Frequency(column / 2, width);
  return column % 2 ? std::cos(angle) : std::sin(angle);
}

double RotaryAngle(Index position, Index pair, Index head_dim) {
  return static_cast<double>(position) * Frequency(pair, head_dim);
}

double AlibiSlope(Index head, Index heads) {
  return std::exp2(-8.0 * static_cast<double>(head + 1) / static_cast<double>(heads));
}

PositionTables::PositionTables(const Problem& p)
    : d_model_(p.layer.d_model), head_dim_(p.head_dim) {
  const Positions& at = p.positions;
  switch (p.layer.encoding) {
    case Encoding::kNone:
    case Encoding::kLearned:
      break;
    case Encoding::kSinusoidal:
      for (Index i = 0; i < std::max(p.queries, p.keys); ++i)
        for (Index c = 0; c < d_model_; ++c)
          sinusoids_.push_back(static_cast<float>(Sinusoid(i, c, d_model_)));
      break;
    case Encoding::kRotary:
      query_turns_ = MakeTurns(p.queries, at.query_origin, at.query_step, head_dim_);
      key_turns_ = MakeTurns(p.keys, at.key_origin, at.key_step, head_dim_);
      break;
    case Encoding::kAlibi: {
      // Element e of a head's vector is the bias of a key e - (queries - 1) positions after
      // query 0's own; row i begins at e = queries - 1 - i.
      const Index length = p.queries + p.keys - 1;
      for (Index h = 0; h < p.heads; ++h)
        for (Index e = 0; e < length; ++e) {
          const Index distance = e - (p.queries - 1) + at.key_origin - at.query_origin;
          alibi_.push_back(static_cast<float>(-AlibiSlope(h, p.heads) *
                                              static_cast<double>(std::abs(distance))));
        }
      bias_ = {.data = alibi_.data() + p.queries - 1,
               .dtype = DType::kF32,
               .batch_stride = 0,
               .head_stride = length,
               .row_stride = -1};
      break;
    }
  }
}

PositionTables::Turns PositionTables::MakeTurns(Index rows, Index origin, Index step,
                                                Index head_dim) {
  Turns turns;
  for (Index i = 0; i < rows; ++i)
    for (Index pair = 0; pair < head_dim / 2; ++pair) {
      const double angle = RotaryAngle(origin + i * step, pair, head_dim);
      turns.cosine.push_back(static_cast<float>(std::cos(angle)));
      turns.sine.push_back(static_cast<float>(std::sin(angle)));
    }
  return turns;
}

void PositionTables::AddSinusoid(Index position, const float* x, float* sum) const {
  const float* table = sinusoids_.data() + position * d_model_;
  for (Index c = 0; c < d_model_; ++c) sum[c] = x[c] + table[c];
}

void PositionTables::Rotate(const Turns& turns, Index at, Index heads, float* row) const {
  const Index pairs = head_dim_ / 2;
  const float* cosine = turns.cosine.data() + at * pairs;
  const float* sine = turns.sine.data() + at * pairs;
  for (Index h = 0; h < heads; ++h, row += head_dim_)
    for (Index i = 0; i < pairs; ++i) {
      const float even = row[2 * i], odd = row[2 * i + 1];
      row[2 * i] = even * cosine[i] - odd * sine[i];
      row[2 * i + 1] = even * sine[i] + odd * cosine[i];
    }
}

void PositionTables::RotateQuery(Index query, Index heads, float* row) const {
  Rotate(query_turns_, query, heads, row);
}
void PositionTables::RotateKey(Index key, Index heads, float* row) const {
  Rotate(key_turns_, key, heads, row);
}

}  // namespace attnbench
