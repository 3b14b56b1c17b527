// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/tile_attention.h"

#include "kernels/simd/tile_runs.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/tile_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/block_pass-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

struct TileRuns {
  template <class Run>
  void operator()(const Problem& p, Index first, int rows, Index key_limit, LaneMask* mask,
                  Run run) const {
    ForEachTileRun(p, *p.mask.tiles, first, rows, key_limit, mask, run);
  }
};

struct PlannedRuns {
  const RunPlan* plan;

  template <class Run>
  void operator()(const Problem&, Index first, int, Index key_limit, LaneMask* mask,
                  Run run) const {
    plan->ForEach(first / kQueries, key_limit, mask, run);
  }
};

Index BlockHere() { return kQueries; }

std::size_t WorkspaceHere(const Problem& p, const AttendOptions& options, int threads) {
  return AttendBlocksWorkspace(p, options, threads);
}
void AttendHere(const Problem& p, const Inputs& in, const Output& out, const AttendOptions& options,
                const Context& context, const RunPlan* plan) {
  if (plan)
    AttendBlocks(p, in, out, options, context, PlannedRuns{plan});
  else
    AttendBlocks(p, in, out, options, context, TileRuns());
}
Cost CostHere(const Problem& p, const RunPlan& plan) {
  return AttendBlocksCost(p, PlannedRuns{&plan});
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {

HWY_EXPORT(WorkspaceHere);
HWY_EXPORT(AttendHere);
HWY_EXPORT(CostHere);
HWY_EXPORT(BlockHere);

RunPlan PlanTiles(const Problem& p) {
  const Index block = HWY_DYNAMIC_DISPATCH(BlockHere)();
  RunPlan plan(block);
  for (Index first = 0; first < p.queries; first += block) {
    const int rows = static_cast<int>(std::min(block, p.queries - first));
    plan.Add(rows, [&](LaneMask* mask, auto run) {
      ForEachTileRun(p, *p.mask.tiles, first, rows, p.keys, mask, run);
    });
  }
  return plan;
}

std::string TilesUnserved(const Problem& p, const Serves& serves) {
  if (p.keys >= std::numeric_limits<std::int32_t>::max()) return "2^31 keys or more";
  if (p.positions.key_step < 1) return "key positions that descend are not served";
  return Unserved(p, serves);
}
void AttendTiles(const Problem& p, const Inputs& in, const Output& out,
                 const AttendOptions& options, const Context& context, const RunPlan* plan) {
  HWY_DYNAMIC_DISPATCH(AttendHere)(p, in, out, options, context, plan);
}
std::size_t TilesWorkspace(const Problem& p, const AttendOptions& options, int threads) {
  return HWY_DYNAMIC_DISPATCH(WorkspaceHere)(p, options, threads);
}
Cost TilesCost(const Problem& p) { return HWY_DYNAMIC_DISPATCH(CostHere)(p, PlanTiles(p)); }

}  // namespace attnbench
#endif
