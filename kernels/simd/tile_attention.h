// SPDX-License-Identifier: Apache-2.0
// Exact attention under a list of tiles, pattern kTiles: what block_sparse and top_blocks share.
// The engine of flash on the runs of tile_runs.h.
#pragma once

#include "kernels/simd/run_plan.h"

namespace attnbench {

// Empty, or why the engine does not serve a problem whose pattern is among `patterns`.
std::string TilesUnserved(const Problem& problem, const Serves& serves);
// What AttendTiles does, found beforehand.
RunPlan PlanTiles(const Problem& problem);

// context.workspace: TilesWorkspace() bytes. plan: of this problem; null: runs are found on the
// way.
void AttendTiles(const Problem& problem, const Inputs& inputs, const Output& output,
                 const AttendOptions& options, const Context& context, const RunPlan* plan);
std::size_t TilesWorkspace(const Problem& problem, const AttendOptions& options, int threads);
// Waste included.
Cost TilesCost(const Problem& problem);

}  // namespace attnbench
