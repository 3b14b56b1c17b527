// SPDX-License-Identifier: Apache-2.0
// What the kernels that go one query at a time share: which keys a query can reach at all, and
// everything that follows its logits.
#pragma once

#include "kernels/contract/kernel.h"

namespace attnbench {

// A range of keys [begin, end) outside which `query` admits none.
struct KeyRange {
  Index begin, end;
  Index size() const { return end - begin; }
};
KeyRange ReachableKeys(const Problem& problem, const Inputs& inputs, Index batch, Index query);

// Masks logits (those of the keys in `range`), takes their softmax and writes the row's output, and
// its log-sum-exp and weights where asked for. Overwrites logits. With inputs.centers it is
// Luong's local-p: the window lies around the centre and a Gaussian multiplies the weights.
void FinishRow(const Problem& problem, const Inputs& inputs, const Output& output, Index batch,
               Index head, Index query, KeyRange range, float* logits);

// Kernel::executed of such kernels: a pair inside its query's reachable range costs its work.
Cost RowwiseCost(const Problem& problem, const Options& options);

}  // namespace attnbench
