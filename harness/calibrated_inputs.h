// SPDX-License-Identifier: Apache-2.0
// Q and K whose attention looks like that of real heads, at any length: Gaussian ones give nearly
// uniform rows and say nothing about sparse attention. The logit of query i and key j is
//
//   sink [j = 0] - locality ln |i - j| + deviation N(0, 1)
//
// of one sink column, of pairs of columns that turn with the position (as rotary encodings do, at
// frequencies spaced by a factor, whose cosines add up to a logarithm), and of Gaussian columns.
// The three numbers are fitted to heads of a real model (`attnbench tensors calibrate`); the table
// of them is what [input] kind = "calibrated" takes its heads from.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/contract/problem.h"

namespace attnbench {

struct CalibratedHead {
  const char* model = "";  // whose head it was fitted to, and which
  Index layer = 0, head = 0;
  Index tokens = 0, head_dim = 0;                // that it was fitted at
  double deviation = 0, locality = 0, sink = 0;  // the fit
  // What the real head measures: nats; the mass of the heaviest eighth of the keys; g of weight ~
  // distance^-g; the mass of key 0.
  double entropy = 0, top_mass = 0, exponent = 0, first_key = 0;
};

// The fitted heads, from the most local to the least.
std::span<const CalibratedHead> CalibratedHeads();

constexpr Index kLeastCalibratedDim = 4;

// One head: q [queries][head_dim] and k [keys][head_dim] of a problem with scale 1/sqrt(head_dim).
// Content differs by stream, positions do not: queries end with the keys. The sink grows with
// ln(keys / head.tokens), so that its share stays.
void FillCalibratedQueries(const CalibratedHead& head, const Problem& p, std::uint64_t stream,
                           const Tensor& q, Index batch, Index q_head);
void FillCalibratedKeys(const CalibratedHead& head, const Problem& p, std::uint64_t stream,
                        const Tensor& k, Index batch, Index kv_head);

}  // namespace attnbench
