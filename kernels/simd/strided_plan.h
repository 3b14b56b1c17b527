// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/simd/run_plan.h"
#include "kernels/simd/sparse_runs.h"

namespace attnbench {

// What blocks of queries see of their bands, and of the gathered columns beside them: by blocks of
// neighbours; strided, by class, and by lanes none.
struct StridedPlan {
  RunPlan bands, columns;
};

}  // namespace attnbench
