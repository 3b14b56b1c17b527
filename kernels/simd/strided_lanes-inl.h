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

// Of one problem, kStrided with query and key steps of 1, computed as elements T.
template <class T>
class StridedLanes {
 public:
  explicit StridedLanes(const Problem& p)
      : p_(p),
        stride_(p.mask.stride),
        shift_(p.positions.query_origin - p.positions.key_origin),
        apart_(p.mask.window / stride_ + 1),
        strips_((stride_ + kLanes - 1) / kLanes),
        rows_(((p.keys - LowestBase() + stride_ - 1) / stride_ + kSide - 1) / kSide * kSide) {}

  // Whether lanes are well filled, and a strip's keys and values stay in a second-level cache
  // while blocks take turns at them. Longer classes are dense attention each.
  static bool Serves(const Problem& p) {
    const Index stride = p.mask.stride, blocks = (stride + kQueries - 1) / kQueries;
    constexpr Index kMostBytes = 1 << 19;
    return p.positions.query_step == 1 && 4 * stride >= 3 * blocks * kQueries &&
           p.keys >= 2 * stride &&
           p.keys / stride * kLanes * (p.head_dim + p.v_dim) * static_cast<Index>(sizeof(T)) <=
               kMostBytes;
  }

  Index strips() const { return strips_; }
  Index rows() const { return rows_; }  // of a strip
  // Words of a strip's keys and of its values.
  Index KeyWords() const { return rows_ * QueryWords() * kLanes; }
  Index ValueWords() const { return rows_ / W::kElements * Columns() * kLanes; }

  // Blocks of queries: row r of column x is queries First(x) + r * stride and its neighbours.
  Index columns() const { return (std::min(stride_, p_.queries) + kQueries - 1) / kQueries; }
  Index BlockRows(Index x) const { return (p_.queries - x * kQueries + stride_ - 1) / stride_; }
  Index Block(Index x, Index r) const { return x * BlockRows(0) + r; }  // as they are numbered
  Index First(Index x, Index r) const { return x * kQueries + r * stride_; }
  int Rows(Index x, Index r) const {
    return static_cast<int>(
        std::clamp<Index>(std::min(stride_ - x * kQueries, p_.queries - First(x, r)), 0, kQueries));
  }

  KeyStrip Strip(Index strip, float* k, float* v) const {
    return {k, v, Base(strip), stride_, rows_};
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
  template <class StripOf>
  void Attend(Index x, Index r, Index key_limit, StripOf strip_of, Attender<T>* engine) const {
    QueryBlock* const blocks = engine->blocks();
    ForEachRun(
        x, r, key_limit, strip_of,
        [&](int lane, const KeyStrip& strip, Index begin, Index end, const LaneEdges& edges) {
          for (int i = 0; i < kBlocks; ++i) {  // to which both vectors are going to add
            if (blocks[i].empty) std::fill_n(blocks[i].o, p_.v_dim * kQueries, 0.0f);
            blocks[i].empty = false;
          }
          AttendStrip<T>(engine->ends(), QueryWords(), p_.v_dim, blocks, lane, strip, begin, end,
                         edges);
        });
  }

  // Stores rows [begin, end) of a strip, begin and end even; lanes without a key are zero.
  void Pack(const Inputs& in, Index b, Index g, const KeyStrip& strip, Index begin, Index end,
            Index key_limit) const {
    for (Index s = begin; s < end; ++s) {
      PackColumns(in.k, b, g, strip.base + s * stride_, key_limit, 0, p_.head_dim,
                  strip.Keys(s / kSide * kSide, QueryWords()) + s % kSide * kLanes, kSide * kLanes);
    }
    for (Index s = begin; s < end; s += W::kElements) {
      const Index key = strip.base + s * stride_, chunk = s / kLaneRows * kLaneRows;
      float* to = strip.Values<T>(chunk, s, Columns(), 0);
      const Index pitch = strip.Values<T>(chunk, s, Columns(), kSide) - to;
      if constexpr (W::kElements == 2) {
        PackRowPairs(in.v, b, g, key, key_limit, to, pitch);
      } else {
        for (Index c = 0; c < p_.v_dim; c += kSide, to += pitch) {
          const Index columns = std::min<Index>(kSide, p_.v_dim - c);
          if (columns < kSide) std::fill_n(to, kSide * kLanes, 0.0f);
          PackColumns(in.v, b, g, key, key_limit, c, columns, to, kLanes);
        }
      }
    }
  }

  // Query-key pairs that are computed of strips, of one head.
  double Pairs() const {
    double pairs = 0;
    for (Index x = 0; x < columns(); ++x) {
      for (Index r = 0; r < BlockRows(x); r += kBlocks) {
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
  using W = Words<T>;
  Index QueryWords() const { return (p_.head_dim + W::kElements - 1) / W::kElements; }

  // The first key of a strip's row 0, which may be one that there is not.
  Index Base(Index strip) const {
    const Index first = ((strip * kLanes + shift_) % stride_ + stride_) % stride_;
    return first + kLanes > stride_ ? first - stride_ : first;
  }
  Index LowestBase() const {
    Index least = 0;
    for (Index strip = 0; strip < strips_; ++strip) least = std::min(least, Base(strip));
    return least;
  }
  // Columns [column, column + columns) of the keys from `key` on into lanes, a word at a time.
  void PackColumns(const ConstTensor& t, Index b, Index g, Index key, Index key_limit, Index column,
                   Index columns, float* to, Index pitch) const {
    if constexpr (W::kElements == 2) {
      const LaneRows<const BFloat16> rows = Rows<BFloat16>(t, b, g, key, column);
      if (key >= 0 && key + kLanes <= key_limit) return TransposePairs(rows, columns, to, pitch);
      PackLanes(key, key_limit, (columns + 1) / 2, to, pitch, [&](int lane, Index c) {
        const BFloat16* row = rows.base + lane * rows.stride;
        const std::uint32_t high = 2 * c + 1 < columns ? row[2 * c + 1].bits : 0u;
        return std::bit_cast<float>(high << 16 | row[2 * c].bits);
      });
    } else if (p_.dtype == DType::kBF16) {
      PackFloats(Rows<BFloat16>(t, b, g, key, column), key, key_limit, columns, to, pitch);
    } else {
      PackFloats(Rows<float>(t, b, g, key, column), key, key_limit, columns, to, pitch);
    }
  }
  template <class TX>
  static LaneRows<const TX> Rows(const ConstTensor& t, Index b, Index g, Index key, Index column) {
    return {t.Row<TX>(b, g, 0) + key * t.row_stride + column, t.row_stride, kLanes};
  }
  template <class TX>
  static void PackFloats(const LaneRows<const TX>& rows, Index key, Index key_limit, Index columns,
                         float* to, Index pitch) {
    if (key >= 0 && key + kLanes <= key_limit) return TransposeIn(rows, columns, 1.0f, to, pitch);
    PackLanes(key, key_limit, columns, to, pitch,
              [&](int lane, Index c) { return ToFloat(rows.base[lane * rows.stride + c]); });
  }
  // The slow way, for rows of which some lanes, or all, have no key.
  template <class F>
  static void PackLanes(Index key, Index key_limit, Index words, float* to, Index pitch, F word) {
    const int low = static_cast<int>(std::clamp<Index>(-key, 0, kLanes));
    const int high = static_cast<int>(std::clamp<Index>(key_limit - key, low, kLanes));
    for (Index c = 0; c < words; ++c) {
      hn::Store(hn::Zero(DF()), DF(), to + c * pitch);
      for (int lane = low; lane < high; ++lane) to[c * pitch + lane] = word(lane, c);
    }
  }
  // Of `key` and the key a stride later, in pairs, kSide columns after the others `pitch` apart.
  void PackRowPairs(const ConstTensor& t, Index b, Index g, Index key, Index key_limit, float* to,
                    Index pitch) const {
    const auto even = Rows<BFloat16>(t, b, g, key, 0),
               odd = Rows<BFloat16>(t, b, g, key + stride_, 0);
    const auto has = [&](Index first) { return first >= 0 && first + kLanes <= key_limit; };
    Index c = 0;
    if (has(key) && has(key + stride_)) {
      const hn::Repartition<std::uint16_t, DF> du16;
      WholeRows<const BFloat16> even_at(even), odd_at(odd);
      for (; c + 2 * kSide <= p_.v_dim; c += 2 * kSide, to += 2 * pitch) {
        VF low[kSide], high[kSide];
        Unroll<kSide>([&](auto r) ATTNBENCH_INLINED {
          const auto x = hn::BitCast(du16, GatherBlocks<r>(even_at, LoadPairs));
          const auto y = hn::BitCast(du16, GatherBlocks<r>(odd_at, LoadPairs));
          low[r] = hn::BitCast(DF(), hn::InterleaveLower(du16, x, y));
          high[r] = hn::BitCast(DF(), hn::InterleaveUpper(du16, x, y));
        });
        even_at.Move(2 * kSide), odd_at.Move(2 * kSide);
        Transpose4x4(low[0], low[1], low[2], low[3]);
        Transpose4x4(high[0], high[1], high[2], high[3]);
        Unroll<kSide>([&](auto r) ATTNBENCH_INLINED {
          hn::Store(low[r], DF(), to + r * kLanes);
          hn::Store(high[r], DF(), to + pitch + r * kLanes);
        });
      }
    }
    for (; c < p_.v_dim; c += kSide, to += pitch) {
      std::fill_n(to, kSide * kLanes, 0.0f);
      for (int half = 0; half < 2; ++half) {
        const Index first = key + half * stride_;
        const BFloat16* row = (half ? odd : even).base + c;
        for (Index lane = std::max<Index>(0, -first);
             lane < std::min<Index>(kLanes, key_limit - first); ++lane) {
          for (Index i = 0; i < std::min<Index>(kSide, p_.v_dim - c); ++i) {
            float& word = to[i * kLanes + lane];
            const std::uint32_t bits = row[lane * t.row_stride + i].bits;
            word = std::bit_cast<float>(std::bit_cast<std::uint32_t>(word) | bits << 16 * half);
          }
        }
      }
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
