// SPDX-License-Identifier: Apache-2.0
// Positional encodings: what each does to sequences, queries and keys, or logits. Additive ones
// count from the start of their own sequence; rotary and ALiBi go by the mask's positions, of which
// only differences matter to them.
#pragma once

#include <vector>

#include "kernels/contract/problem.h"

namespace attnbench {

// sin(position / 10000^(2i/width)) in column 2i, the cosine in column 2i + 1.
// Vaswani et al. 2017, 3.5.
double Sinusoid(Index position, Index column, Index width);

// The angle by which columns 2i and 2i + 1 of a query or key are turned: position * 10000^(-2i/d).
// Su et al. 2021, eq. 15.
double RotaryAngle(Index position, Index pair, Index head_dim);

// Head h of H subtracts slope * |p - j| from its logits, slope = 2^(-8 (h + 1) / H).
// Press et al. 2021 (their rule for powers of two, here for every H).
double AlibiSlope(Index head, Index heads);

// The float32 tables that a layer computes once a problem.
class PositionTables {
 public:
  explicit PositionTables(const Problem& problem);

  // x[c] += table at `position` of the own sequence; of kSinusoidal.
  void AddSinusoid(Index position, const float* x, float* sum) const;
  // Turns the heads of one row, [heads][head_dim]; of kRotary.
  void RotateQuery(Index query, Index heads, float* row) const;
  void RotateKey(Index key, Index heads, float* row) const;
  // The bias [batch][heads][queries][keys] as a view; of kAlibi. It depends on p - j alone, so each
  // row is the row before it moved by one element: a vector a head, and a row_stride of -1.
  ConstTensor Bias() const { return bias_; }

 private:
  struct Turns {  // cos, sin [rows][head_dim / 2]
    std::vector<float> cosine, sine;
  };
  static Turns MakeTurns(Index rows, Index origin, Index step, Index head_dim);
  void Rotate(const Turns& turns, Index at, Index heads, float* row) const;

  Index d_model_, head_dim_;
  std::vector<float> sinusoids_;  // [max(queries, keys)][d_model]
  Turns query_turns_, key_turns_;
  std::vector<float> alibi_;  // [heads][queries + keys - 1]
  ConstTensor bias_;
};

}  // namespace attnbench
