// SPDX-License-Identifier: Apache-2.0
// A run of rows as a block of queries sees it: cut to what its vectors of queries need, so that an
// edge of a mask wastes triangles of a vector by a vector and no more. Under a band, whose queries
// ascend with their keys, the first rows are seen by the first vector alone and the last rows by
// the last one: there the tiles are one vector wide.
//
//            rows ->      begin   both_begin        both_end   end
//   first vector            \XXXXXXX|XXXXXXXXXXXXXXXX\|
//   last vector                     |\XXXXXXXXXXXXXXXX|XXXXXXX\     (\: masked, a triangle)

#if defined(ATTNBENCH_KERNELS_SIMD_SEEN_RUN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_SEEN_RUN_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_SEEN_RUN_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_SEEN_RUN_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/simd/attend.h"
#include "kernels/simd/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

struct SeenRun {
  Index begin, end;                              // rows to compute, if any
  Index both_begin, both_end;                    // for all vectors
  Index all_begin[kVectors], all_end[kVectors];  // rows that every query of the vector sees
  bool ranges;                                   // lanes see what follows; else the mask tells
  alignas(64) std::int32_t lane_begin[kQueries];
  alignas(64) std::int32_t lane_end[kQueries];

  // Query-key pairs that are computed.
  double Pairs() const {
    return end <= begin ? 0
                        : static_cast<double>(kLanes) * ((end - begin) + (both_end - both_begin));
  }
};

// `rows` queries on rows [begin, end) of a source, whose rows come `kTogether` at a time.
template <Index kTogether>
HWY_INLINE SeenRun Seen(Index begin, Index end, const LaneMask* mask, int rows) {
  static_assert(kVectors == 2 && kRows % kTogether == 0);
  const hn::RebindToSigned<DF> di;
  const auto lowest = hn::Set(di, static_cast<std::int32_t>(begin));
  const auto highest = hn::Set(di, static_cast<std::int32_t>(end));
  SeenRun run;
  run.ranges = !mask || mask->ranges;
  Index some_begin[kVectors], some_end[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    auto b = lowest, e = highest;
    run.all_begin[v] = some_begin[v] = begin, run.all_end[v] = some_end[v] = end;
    if (mask && mask->ranges) {
      b = hn::Max(b, hn::Load(di, mask->begin + v * kLanes));
      e = hn::Min(e, hn::Load(di, mask->end + v * kLanes));
      run.all_begin[v] = hn::ReduceMax(di, b), run.all_end[v] = hn::ReduceMin(di, e);
      // Lanes that see nothing, wherever it would begin, ask for nothing.
      const auto any = hn::Lt(b, e);
      some_begin[v] = hn::ReduceMin(di, hn::IfThenElse(any, b, highest));
      some_end[v] = hn::ReduceMax(di, hn::IfThenElse(any, e, lowest));
    }
    hn::Store(b, di, run.lane_begin + v * kLanes);
    hn::Store(e, di, run.lane_end + v * kLanes);
    if (v * kLanes >= rows) some_begin[v] = end, some_end[v] = begin;
  }
  run.begin = std::min(some_begin[0], some_begin[1]);
  run.end = std::max(some_end[0], some_end[1]);
  run.begin -= run.begin % kTogether;
  const auto tiles = [&](Index from, Index to) { return (to - from) / kRows * kRows; };
  run.both_begin = some_begin[1] >= run.end ? run.end : run.begin + tiles(run.begin, some_begin[1]);
  run.both_end =
      some_end[0] <= run.begin ? run.begin : run.begin + tiles(run.begin, some_end[0] + kRows - 1);
  run.both_end = std::clamp(run.both_end, run.both_begin, std::max(run.both_begin, run.end));
  return run;
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
