// SPDX-License-Identifier: Apache-2.0
// One row of attention by its definition, in the arithmetic of the caller's choice. Float64 is the
// oracle, the only definition of right; float32 is the same-dtype naive evaluation that sets the
// tolerance (bf16: weights and output are rounded to bf16 too). Implemented by
// kernels/reference.cc.
#pragma once

#include <vector>

#include "kernels/contract/kernel.h"

namespace attnbench {

template <class Real>
struct OracleRow {
  std::vector<Real> out;      // [v_dim]
  std::vector<Real> weights;  // [keys], zero where masked
  Real lse = 0;
  double max_abs_logit = 0;  // over the admitted keys
};

// Evaluates the row (batch, head, query). Reuses the vectors of `row`.
template <class Real>
void EvaluateRow(const Problem& problem, const Inputs& inputs, Index batch, Index head, Index query,
                 OracleRow<Real>* row);
extern template void EvaluateRow(const Problem&, const Inputs&, Index, Index, Index,
                                 OracleRow<double>*);
extern template void EvaluateRow(const Problem&, const Inputs&, Index, Index, Index,
                                 OracleRow<float>*);

}  // namespace attnbench
