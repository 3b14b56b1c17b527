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
  const TilePlan* plan;

  template <class Run>
  void operator()(const Problem&, Index first, int, Index key_limit, LaneMask* mask,
                  Run run) const {
    const Index block = first / kQueries;
    mask->ranges = true;
    for (Index r = plan->first_run[block]; r < plan->first_run[block + 1]; ++r) {
      const TilePlan::Run& at = plan->runs[r];
      const Index end = std::min<Index>(at.end, key_limit);
      if (at.begin >= end) break;  // runs ascend
      if (at.ranges >= 0) {
        const std::int32_t* begins = plan->ranges.data() + Index{2} * at.ranges * kQueries;
        std::copy_n(begins, kQueries, mask->begin);
        std::copy_n(begins + kQueries, kQueries, mask->end);
      }
      run(Index{at.begin}, end, at.ranges < 0 ? nullptr : mask);
    }
  }
};

Index BlockHere() { return kQueries; }

std::size_t WorkspaceHere(const Problem& p, const AttendOptions& options, int threads) {
  return AttendBlocksWorkspace(p, options, threads);
}
void AttendHere(const Problem& p, const Inputs& in, const Output& out, const AttendOptions& options,
                const Context& context, const TilePlan* plan) {
  if (plan)
    AttendBlocks(p, in, out, options, context, PlannedRuns{plan});
  else
    AttendBlocks(p, in, out, options, context, TileRuns());
}
Cost CostHere(const Problem& p) { return AttendBlocksCost(p, TileRuns()); }

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {

HWY_EXPORT(WorkspaceHere);
HWY_EXPORT(AttendHere);
HWY_EXPORT(CostHere);
HWY_EXPORT(BlockHere);

TilePlan PlanTiles(const Problem& p) {
  TilePlan plan;
  plan.block = HWY_DYNAMIC_DISPATCH(BlockHere)();
  plan.first_run.push_back(0);
  LaneMask mask;
  for (Index first = 0; first < p.queries; first += plan.block) {
    const int rows = static_cast<int>(std::min(plan.block, p.queries - first));
    ForEachTileRun(p, *p.mask.tiles, first, rows, p.keys, &mask,
                   [&](Index begin, Index end, const LaneMask* seen) {
                     TilePlan::Run run{static_cast<std::int32_t>(begin),
                                       static_cast<std::int32_t>(end), -1};
                     if (seen) {
                       const Index held = std::ssize(plan.ranges) / (2 * plan.block);
                       run.ranges = static_cast<std::int32_t>(held);
                       for (const std::int32_t* lanes : {seen->begin, seen->end})
                         plan.ranges.insert(plan.ranges.end(), lanes, lanes + plan.block);
                     }
                     plan.runs.push_back(run);
                   });
    plan.first_run.push_back(std::ssize(plan.runs));
  }
  return plan;
}

std::string TilesUnserved(const Problem& p, const Serves& serves) {
  if (p.keys >= std::numeric_limits<std::int32_t>::max()) return "2^31 keys or more";
  if (p.positions.key_step < 1) return "key positions that descend are not served";
  return Unserved(p, serves);
}
void AttendTiles(const Problem& p, const Inputs& in, const Output& out,
                 const AttendOptions& options, const Context& context, const TilePlan* plan) {
  HWY_DYNAMIC_DISPATCH(AttendHere)(p, in, out, options, context, plan);
}
std::size_t TilesWorkspace(const Problem& p, const AttendOptions& options, int threads) {
  return HWY_DYNAMIC_DISPATCH(WorkspaceHere)(p, options, threads);
}
Cost TilesCost(const Problem& p) { return HWY_DYNAMIC_DISPATCH(CostHere)(p); }

}  // namespace attnbench
#endif
