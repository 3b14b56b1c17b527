// SPDX-License-Identifier: Apache-2.0
// Which blocks of queries sparse_strided attends, and the runs that each of them sees.

#if defined(ATTNBENCH_KERNELS_SIMD_STRIDED_PLAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_STRIDED_PLAN_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_STRIDED_PLAN_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_STRIDED_PLAN_INL_H_
#endif

#include <numeric>

#include "hwy/highway.h"
#include "kernels/simd/strided_lanes-inl.h"
#include "kernels/simd/strided_plan.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

// What every block needs to know of a problem's columns.
struct StridedColumns {
  explicit StridedColumns(const Problem& p) : strided(p.mask.pattern == Mask::Pattern::kStrided) {
    const Index stride = p.mask.stride;
    if (strided) {
      keys = {stride, 0, 1};
      step = stride / std::gcd(stride, std::abs(p.positions.query_step));
      classes = std::min(stride, p.keys);
      rows = (p.keys + stride - 1) / stride;
    } else {
      const AdmittedKeys a = p.Admitted(0, p.keys);
      keys = {a.stride, a.residue, a.width};
      rows = keys.Below(p.keys);
    }
  }
  // Classes of queries, blocks of each at most, and queries of a block.
  Index QueryClasses(const Problem& p) const { return std::min(step, p.queries); }
  Index ClassBlocks(const Problem& p) const {
    return ((p.queries + step - 1) / step + kQueries - 1) / kQueries;
  }
  // The class of a query: keys residue, residue + stride, ...
  ColumnKeys Class(const Problem& p, Index query) const {
    const Index x = p.QueryPosition(query) - p.positions.key_origin;
    return {p.mask.stride, (x % p.mask.stride + p.mask.stride) % p.mask.stride, 1};
  }

  bool strided;
  ColumnKeys keys;    // strided: of the class with residue 0
  Index step = 1;     // from one query of a class to the next
  Index classes = 1;  // that have keys; else all columns are one class
  Index rows;         // gathered, of a class
};

// Whether keys in strides are attended by lanes, if wanted; else class by class.
template <class T>
bool Laned(const Problem& p, bool lanes) {
  return lanes && p.mask.pattern == Mask::Pattern::kStrided && StridedLanes<T>::Serves(p);
}
template <class T>
StridedPlan MakeStridedPlan(const Problem& p, bool lanes) {
  const StridedColumns columns(p);
  StridedPlan plan{RunPlan(kQueries), RunPlan(kQueries)};
  const auto band = [&](Index first, Index rows) {
    plan.bands.Add(static_cast<int>(rows), [&](LaneMask* mask, auto run) {
      ForEachBandRun(p, first, static_cast<int>(rows), p.keys, mask, run);
    });
  };
  if (Laned<T>(p, lanes)) {
    const StridedLanes<T> blocks(p);
    for (Index x = 0; x < blocks.columns(); ++x)
      for (Index r = 0; r < blocks.BlockRows(0); ++r) band(blocks.First(x, r), blocks.Rows(x, r));
    return plan;
  }
  const auto column = [&](const ColumnKeys& keys, Index first, Index step) {
    const Index left = std::max<Index>(0, p.queries - first + step - 1) / step;
    const int rows = static_cast<int>(std::min<Index>(kQueries, left));
    plan.columns.Add(rows, [&](LaneMask* mask, auto run) {
      ForEachColumnRun(p, keys, first, step, rows, p.keys, mask, run);
    });
  };
  for (Index first = 0; first < p.queries; first += kQueries) {
    band(first, std::min<Index>(kQueries, p.queries - first));
    if (!columns.strided) column(columns.keys, first, 1);
  }
  for (Index i = 0; columns.strided && i < columns.QueryClasses(p); ++i)
    for (Index block = 0; block < columns.ClassBlocks(p); ++block)
      column(columns.Class(p, i), i + block * kQueries * columns.step, columns.step);
  return plan;
}

// Query-key pairs that are computed, of one head.
template <class T>
double StridedPairs(const Problem& p, bool lanes) {
  const StridedPlan plan = MakeStridedPlan<T>(p, lanes);
  double pairs = Laned<T>(p, lanes) ? StridedLanes<T>(p).Pairs() : 0;
  for (const RunPlan* one : {&plan.bands, &plan.columns}) {
    for (Index block = 0; block < one->blocks(); ++block) {
      pairs += ComputedPairs(one->rows(block), [&](LaneMask* mask, auto run) {
        one->ForEach(block, p.keys, mask, run);
      });
    }
  }
  return pairs;
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
