// SPDX-License-Identifier: Apache-2.0
// Keys a stride apart, for blocks of neighbouring queries: query i sees keys i + shift - t *
// stride, so neighbours see neighbours, and term t of a block of queries is one row of as many keys
// (lane_tiles-inl.h). Queries and keys are cut into strips, kLanes neighbouring residues each; a
// block attends the rows of its strips, then goes on to its band like any other block, in one
// visit. kBlocks blocks a stride apart share each row: what is wasted is their triangle, and the
// rest of a tile of kSide rows.

#if defined(ATTNBENCH_KERNELS_SIMD_STRIDED_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_STRIDED_LANES_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_STRIDED_LANES_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_STRIDED_LANES_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/simd/block_pass-inl.h"
#include "kernels/simd/key_runs.h"
#include "kernels/simd/lane_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

// Of one problem, kStrided with query and key steps of 1.
class StridedLanes {
 public:
  explicit StridedLanes(const Problem& p)
      : p_(p),
        stride_(p.mask.stride),
        shift_(p.positions.query_origin - p.positions.key_origin),
        apart_(p.mask.window / stride_ + 1),
        strips_((stride_ + kLanes - 1) / kLanes),
        rows_((p.keys / stride_ + 1 + kSide) / kSide * kSide) {}

  // Whether lanes are well filled, and a strip's keys and values stay in a second-level cache
  // while blocks take turns at them. Longer classes are dense attention each.
  static bool Serves(const Problem& p) {
    const Index stride = p.mask.stride, blocks = (stride + kQueries - 1) / kQueries;
    constexpr Index kMostBytes = 1 << 19;
    return p.positions.query_step == 1 && 4 * stride >= 3 * blocks * kQueries &&
           p.keys >= 2 * stride &&
           p.keys / stride * kLanes * (p.head_dim + p.v_dim) * 4 <= kMostBytes;
  }

  Index strips() const { return strips_; }
  Index rows() const { return rows_; }  // of a strip
  // Words of a strip's keys and of its values.
  Index KeyWords() const { return rows_ * p_.head_dim * kLanes; }
  Index ValueWords() const { return rows_ * Columns() * kLanes; }

  // Blocks of queries: row r of column x is queries First(x) + r * stride and its neighbours.
  Index columns() const { return (std::min(stride_, p_.queries) + kQueries - 1) / kQueries; }
  Index BlockRows(Index x) const { return (p_.queries - x * kQueries + stride_ - 1) / stride_; }
  Index First(Index x, Index r) const { return x * kQueries + r * stride_; }
  int Rows(Index x, Index r) const {
    return static_cast<int>(
        std::clamp<Index>(std::min(stride_ - x * kQueries, p_.queries - First(x, r)), 0, kQueries));
  }

  KeyStrip Strip(Index strip, float* k, float* v) const {
    const Index first = ((strip * kLanes + shift_) % stride_ + stride_) % stride_;
    return {k, v, first + kLanes > stride_ ? first - stride_ : first, stride_, rows_};
  }

  // Calls f(lane, strip, begin, end, edges) for what kBlocks blocks from row r of column x see,
  // vector by vector.
  template <class StripOf, class F>
  void ForEachRun(Index x, Index r, Index key_limit, StripOf strip_of, F f) const {
    const Index sinks = p_.mask.sinks ? p_.mask.sinks - p_.positions.key_origin : 0;
    for (int v = 0; v * kLanes < Rows(x, r); ++v) {
      const Index u = x * kVectors + v;
      const KeyStrip strip = strip_of(u);
      const auto above = [&](Index key) {  // the first row with keys from `key` on
        const Index from = key - kLanes + 1 - strip.base;
        return from <= 0 ? 0 : (from + stride_ - 1) / stride_;
      };
      LaneEdges edges;
      edges.own = (u * kLanes + shift_ - strip.base) / stride_ + r;
      edges.apart = apart_, edges.causal = p_.mask.causal;
      edges.low = std::max<Index>(0, sinks), edges.high = key_limit;
      const Index first = above(edges.low);
      const Index last = key_limit > strip.base ? (key_limit - strip.base - 1) / stride_ + 1 : 0;
      const Index left = std::clamp(edges.own + kBlocks - apart_, first, std::max(first, last));
      if (first < left) f(v * kLanes, strip, first, left, edges);
      // A tile may reach behind the left end: what it has there is done.
      const Index done = (left + kSide - 1) / kSide * kSide;
      const Index right = std::max(first < left ? done : left, edges.own + apart_);
      if (!p_.mask.causal && right < last) f(v * kLanes, strip, right, last, edges);
    }
  }

  // All that kBlocks open blocks of the engine, from row r of column x on, see beside their bands.
  template <class T, class StripOf>
  void Attend(Index x, Index r, Index key_limit, StripOf strip_of, Attender<T>* engine) const {
    QueryBlock* const blocks = engine->blocks();
    ForEachRun(
        x, r, key_limit, strip_of,
        [&](int lane, const KeyStrip& strip, Index begin, Index end, const LaneEdges& edges) {
          for (int i = 0; i < kBlocks; ++i) {  // to which both vectors are going to add
            if (blocks[i].empty) std::fill_n(blocks[i].o, p_.v_dim * kQueries, 0.0f);
            blocks[i].empty = false;
          }
          AttendStrip<T>(engine->ends(), p_.head_dim, p_.v_dim, blocks, lane, strip, begin, end,
                         edges);
        });
  }

  // Stores rows [begin, end) of a strip; lanes without a key are zero.
  void Pack(const Inputs& in, Index b, Index g, const KeyStrip& strip, Index begin, Index end,
            Index key_limit) const {
    for (Index s = begin; s < end; ++s) {
      const Index key = strip.base + s * stride_, chunk = s / kLaneRows * kLaneRows;
      PackColumns(in.k, b, g, key, key_limit, 0, p_.head_dim,
                  strip.Keys(s / kSide * kSide, p_.head_dim) + s % kSide * kLanes, kSide * kLanes);
      for (Index c = 0; c < p_.v_dim; c += kSide) {
        float* const to = strip.Values(chunk, Columns(), c) + (s - chunk) * kSide * kLanes;
        if (c + kSide > p_.v_dim) std::fill_n(to, kSide * kLanes, 0.0f);
        PackColumns(in.v, b, g, key, key_limit, c, std::min<Index>(kSide, p_.v_dim - c), to,
                    kLanes);
      }
    }
  }

  // Query-key pairs that are computed, of one head.
  double Pairs() const {
    double pairs = 0;
    for (Index x = 0; x < columns(); ++x) {
      for (Index r = 0; r < BlockRows(x); ++r) {
        const int rows = Rows(x, r);
        pairs += ComputedPairs(rows, [&](LaneMask* m, auto run) {
          ForEachBandRun(p_, First(x, r), rows, p_.keys, m, run);
        });
        if (r % kBlocks) continue;
        ForEachRun(
            x, r, p_.keys, [&](Index u) { return Strip(u, nullptr, nullptr); },
            [&](int, const KeyStrip&, Index begin, Index end, const LaneEdges&) {
              const Index tiles = (end + kSide - 1) / kSide - begin / kSide;
              pairs += static_cast<double>(tiles * kSide * kBlocks * kLanes);
            });
      }
    }
    return pairs;
  }

 private:
  // Columns [column, column + columns) of the keys from `key` on into lanes.
  void PackColumns(const ConstTensor& t, Index b, Index g, Index key, Index key_limit, Index column,
                   Index columns, float* to, Index pitch) const {
    p_.dtype == DType::kBF16
        ? PackColumnsAs<BFloat16>(t, b, g, key, key_limit, column, columns, to, pitch)
        : PackColumnsAs<float>(t, b, g, key, key_limit, column, columns, to, pitch);
  }
  template <class TX>
  static void PackColumnsAs(const ConstTensor& t, Index b, Index g, Index key, Index key_limit,
                            Index column, Index columns, float* to, Index pitch) {
    if (key >= 0 && key + kLanes <= key_limit) {
      const LaneRows<const TX> rows{t.Row<TX>(b, g, key) + column, t.row_stride, kLanes};
      return TransposeIn(rows, columns, 1.0f, to, pitch);
    }
    for (Index i = key; i < key + kLanes; ++i) {
      const TX* row = i >= 0 && i < key_limit ? t.Row<TX>(b, g, i) + column : nullptr;
      for (Index c = 0; c < columns; ++c) to[c * pitch + i - key] = row ? ToFloat(row[c]) : 0.0f;
    }
  }
  Index Columns() const { return (p_.v_dim + kSide - 1) / kSide * kSide; }

  const Problem& p_;
  const Index stride_, shift_, apart_, strips_, rows_;
};

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
