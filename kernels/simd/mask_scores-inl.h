// SPDX-License-Identifier: Apache-2.0
// Bias and masks on the scores of one step of the engine (attend-inl.h), a vector of queries at a
// time, and the maximum of what is left.

#if defined(ATTNBENCH_KERNELS_SIMD_MASK_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_MASK_SCORES_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_MASK_SCORES_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_MASK_SCORES_INL_H_
#endif

#include <cmath>

#include "hwy/highway.h"
#include "kernels/simd/attend.h"
#include "kernels/simd/query_block-inl.h"
#include "kernels/simd/seen_run-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

// Lanes q ... q + Lanes(d) - 1 that admit row `key`.
template <class D>
HWY_INLINE hn::Mask<D> Admitted(D d, const LaneMask& mask, int q, Index key) {
  const hn::RebindToSigned<D> di;
  const auto j = hn::Set(di, static_cast<std::int32_t>(key));
  const auto under = hn::Lt(j, hn::Load(di, mask.limit + q));
  bool by_lanes = mask.admits != nullptr;
  if (!mask.admits && mask.stride > 0) {
    const Index m = (key - mask.residue[0]) % mask.stride;
    if (!mask.same_residue)
      by_lanes = true;
    else if ((m < 0 ? m + mask.stride : m) < mask.width)
      return hn::RebindMask(d, under);
  }
  if (by_lanes) {
    HWY_ALIGN std::int32_t extra[HWY_LANES(float)];
    for (int lane = 0; lane < static_cast<int>(hn::Lanes(di)); ++lane) {
      if (mask.admits) {
        extra[lane] = key < mask.limit[q + lane] && mask.admits(mask.context, q + lane, key);
      } else {
        const Index m = (key - mask.residue[q + lane]) % mask.stride;
        extra[lane] = (m < 0 ? m + mask.stride : m) < mask.width;
      }
    }
    const auto by_lane = hn::Gt(hn::Load(di, extra), hn::Zero(di));
    if (mask.admits) return hn::RebindMask(d, hn::And(under, by_lane));
    const auto band =
        hn::And(hn::Ge(j, hn::Load(di, mask.begin + q)), hn::Lt(j, hn::Load(di, mask.end + q)));
    const auto sinks = hn::Lt(j, hn::Load(di, mask.sinks + q));
    return hn::RebindMask(d, hn::And(under, hn::Or(hn::Or(band, sinks), by_lane)));
  }
  const auto band =
      hn::And(hn::Ge(j, hn::Load(di, mask.begin + q)), hn::Lt(j, hn::Load(di, mask.end + q)));
  const auto sinks = hn::Lt(j, hn::Load(di, mask.sinks + q));
  return hn::RebindMask(d, hn::And(under, hn::Or(band, sinks)));
}

// Rows [begin, begin + keys) of a run; the score of row j for lane q lies at
// s[(j - begin) * kQueries + q].
struct StepScores {
  const SeenRun& run;
  Index begin, keys;
  float* s;
  float* max;  // [kQueries]

  Index From(int v) const { return v == 0 ? begin : std::max(begin, run.both_begin); }
  Index To(int v) const {
    return v == kVectors - 1 ? begin + keys : std::min(begin + keys, run.both_end);
  }
  float* At(Index row, int v) const { return s + (row - begin) * kQueries + v * kLanes; }
};

// Only rows at the edges are compared; those between count for the maximum alone.
inline void MaskRanges(const StepScores& x, int v) {
  const DF d;
  const hn::RebindToSigned<DF> di;
  const auto lane_begin = hn::Load(di, x.run.lane_begin + v * kLanes);
  const auto lane_end = hn::Load(di, x.run.lane_end + v * kLanes);
  const VF minus_inf = hn::Set(d, -HUGE_VALF);
  VF max[2] = {minus_inf, minus_inf};
  const auto edge = [&](Index row, Index stop) ATTNBENCH_INLINED {
    for (; row < stop; ++row) {
      const auto j = hn::Set(di, static_cast<std::int32_t>(row));
      const auto seen = hn::And(hn::Ge(j, lane_begin), hn::Lt(j, lane_end));
      const VF score =
          hn::IfThenElse(hn::RebindMask(d, seen), hn::Load(d, x.At(row, v)), minus_inf);
      hn::Store(score, d, x.At(row, v));
      max[0] = hn::Max(max[0], score);
    }
  };
  const Index from = x.From(v), to = x.To(v);
  const Index first = std::clamp(x.run.all_begin[v], from, to);
  const Index last = std::clamp(x.run.all_end[v], first, to);
  edge(from, first);
  Index row = first;
  for (; row + 2 <= last; row += 2) {
    Unroll<2>([&](auto u)
                  ATTNBENCH_INLINED { max[u] = hn::Max(max[u], hn::Load(d, x.At(row + u, v))); });
  }
  for (; row < last; ++row) max[0] = hn::Max(max[0], hn::Load(d, x.At(row, v)));
  edge(last, to);
  hn::Store(hn::Max(max[0], max[1]), d, x.max + v * kLanes);
}

inline VF BiasColumn(const Inputs& in, const QueryBlock& b, int q, Index key) {
  HWY_ALIGN float column[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int row = std::min(q + lane, b.rows - 1);
    column[lane] = in.bias.Row<float>(b.batch, b.head, b.first + row * b.step)[key];
  }
  return hn::Mul(hn::Load(DF(), column), hn::Set(DF(), 1.44269504f));
}

// Every row: masks that are no ranges, and the bias.
inline void MaskRows(const Inputs& in, const QueryBlock& b, const LaneMask* mask,
                     const StepScores& x, int v) {
  const DF d;
  const hn::RebindToSigned<DF> di;
  const int q = v * kLanes;
  const VF minus_inf = hn::Set(d, -HUGE_VALF);
  VF max = minus_inf;
  for (Index row = x.From(v); row < x.To(v); ++row) {
    VF score = hn::Load(d, x.At(row, v));
    if (in.bias) score = hn::Add(score, BiasColumn(in, b, q, row));
    const auto j = hn::Set(di, static_cast<std::int32_t>(row));
    const auto inside = hn::And(hn::Ge(j, hn::Load(di, x.run.lane_begin + q)),
                                hn::Lt(j, hn::Load(di, x.run.lane_end + q)));
    score = hn::IfThenElse(hn::RebindMask(d, inside), score, minus_inf);
    if (!x.run.ranges) score = hn::IfThenElse(Admitted(d, *mask, q, row), score, minus_inf);
    hn::Store(score, d, x.At(row, v));
    max = hn::Max(max, score);
    if (in.bias) {  // as the sum of the scores does elsewhere: -inf is a bias as good as any
      const auto bad = hn::Or(hn::IsNaN(score), hn::Eq(score, hn::Set(d, HUGE_VALF)));
      hn::BlendedStore(hn::Set(d, NAN), bad, d, b.sum + q);
    }
  }
  hn::Store(max, d, x.max + q);
}

inline HWY_NOINLINE void MaskScores(const Inputs& in, const QueryBlock& b, const LaneMask* mask,
                                    const StepScores& x) {
  for (int v = 0; v < kVectors; ++v) {
    if (x.To(v) <= x.From(v)) continue;
    if (in.bias || !x.run.ranges)
      MaskRows(in, b, mask, x, v);
    else if (x.From(v) < x.run.all_begin[v] || x.To(v) > x.run.all_end[v])
      MaskRanges(x, v);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
