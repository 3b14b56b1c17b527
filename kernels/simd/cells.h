// SPDX-License-Identifier: Apache-2.0
// The elementwise part of one step of a recurrent layer, after its matrix products: gates, state
// and output of the units [first, first + count). Dispatched at run time; float32.
#pragma once

#include "kernels/contract/tensor.h"

namespace attnbench {

// Of one batch element and step; all but state and out are [gates][hidden].
struct CellStep {
  const float *input, *input_bias;          // W x_t and its bias
  const float *recurrent, *recurrent_bias;  // U h_{t-1} and its bias
  const float* previous;                    // h_{t-1} [hidden]
  float* state;                             // c_{t-1} -> c_t [hidden], of the LSTM
  float* out;                               // h_t [hidden]
  Index hidden;
};

// h = tanh(Wx + Uh)
void RnnStep(const CellStep& step, Index first, Index count);
// Gates i, f, g, o. c = sigmoid(f) c + sigmoid(i) tanh(g),  h = sigmoid(o) tanh(c)
void LstmStep(const CellStep& step, Index first, Index count);
// Gates r, z, n. n = tanh(Wx_n + sigmoid(r) (Uh)_n),  h = (1 - sigmoid(z)) n + sigmoid(z) h
void GruStep(const CellStep& step, Index first, Index count);

}  // namespace attnbench
