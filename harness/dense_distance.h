// SPDX-License-Identifier: Apache-2.0
// How far the output of a kernel that selects its keys is from dense attention. Not an error: it is
// exact under its selection, and judged so (conform.h).
#pragma once

#include <cstdint>

#include "kernels/contract/kernel.h"

namespace attnbench {

// Means over the rows looked at, but max.
struct DenseDistance {
  double mass_recall = 0;  // what dense attention gives to the selected keys
  double rel_l2 = 0;       // |out - dense| / |dense|
  double cosine = 0;
  double max = 0;  // max |out - dense| / max |dense|
};

// Of `rows` random rows, or all that there are. `selected` is the problem under the selected tiles,
// `dense` the one that the kernel was given.
DenseDistance DistanceToDense(const Problem& dense, const Problem& selected, const Inputs& inputs,
                              const Output& output, Index rows, std::uint64_t seed);

}  // namespace attnbench
