// SPDX-License-Identifier: Apache-2.0
// Exact attention under a list of tiles, pattern kTiles: what block_sparse and top_blocks share.
// The engine of flash on the runs of tile_runs.h.
#pragma once

#include "kernels/simd/attend.h"

namespace attnbench {

// Empty, or why the engine does not serve a problem whose pattern is among `patterns`.
std::string TilesUnserved(const Problem& problem, const Serves& serves);
// The runs of every block of queries, found beforehand: where tiles are lower than a vector,
// finding them takes as long as attending them.
struct TilePlan {
  struct Run {
    std::int32_t begin, end;
    std::int32_t ranges;  // which of `ranges` the queries see; -1: all of them the run whole
  };
  Index block = 0;               // queries
  std::vector<Index> first_run;  // of each block, and the end
  std::vector<Run> runs;
  std::vector<std::int32_t> ranges;  // [..][2][block]: begins, ends
};
TilePlan PlanTiles(const Problem& problem);

// context.workspace: TilesWorkspace() bytes. plan: of this problem; null: runs are found on the
// way.
void AttendTiles(const Problem& problem, const Inputs& inputs, const Output& output,
                 const AttendOptions& options, const Context& context, const TilePlan* plan);
std::size_t TilesWorkspace(const Problem& problem, const AttendOptions& options, int threads);
// Waste included.
Cost TilesCost(const Problem& problem);

}  // namespace attnbench
