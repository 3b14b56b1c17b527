// SPDX-License-Identifier: Apache-2.0
// Attention of one query, an equation a call: for kernels that go row by row. Dispatched at run
// time; float32; rows of k and v are row_stride elements apart.
#pragma once

#include "kernels/contract/tensor.h"

namespace attnbench {

// logits[j] = scale * q.k_j for j in [0, rows).
void RowDots(const float* q, const float* k, Index row_stride, Index rows, Index head_dim,
             float scale, float* logits);

// logits[j] = scale * sum_h v[h] tanh(query[h] + keys[j][h]) for j in [0, rows); keys is dense.
void AdditiveDots(const float* query, const float* keys, Index rows, Index hidden, const float* v,
                  float scale, float* logits);

struct SoftmaxRow {
  float max, sum;  // log-sum-exp = max + log(sum); an empty row has max -inf and sum 0
};

// logits[j] <- exp(logits[j] - max). Not normalised. -inf gives 0, also when all are -inf; NaN and
// +inf make the sum NaN.
SoftmaxRow ExpRow(float* logits, Index count);

// out[c] = factor * sum_j weights[j] v_j[c] for c in [0, v_dim).
void WeightedSum(const float* weights, const float* v, Index row_stride, Index rows, Index v_dim,
                 float factor, float* out);

}  // namespace attnbench
