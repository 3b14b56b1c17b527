// SPDX-License-Identifier: Apache-2.0
// The two products of attention where every lane has keys of its own: lane i of a row of keys meets
// lane i of a block of queries and nobody else, so that nothing is broadcast. That is the case of
// keys a stride away from their queries: neighbours of a query meet neighbours of its key. Reuse
// comes from several blocks of queries that meet the same rows of keys: a register tile is kBlocks
// vectors of queries times kSide rows of keys (or columns of values).
//
// A word is what it is in tiles-inl.h. Rows are stored as the tiles read them:
//   keys    [rows / kSide][words][kSide][kLanes]
//   values  [rows / kLaneRows][columns / kSide][kLaneRows][kSide][kLanes], columns padded with
//   zeros,
//           the last chunk of rows as long as it is; of bf16, half as many rows: of pairs

#if defined(ATTNBENCH_KERNELS_SIMD_LANE_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_LANE_TILES_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_LANE_TILES_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_LANE_TILES_INL_H_
#endif

#include <cmath>

#include "hwy/highway.h"
#include "kernels/simd/query_block-inl.h"
#include "kernels/simd/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

// 16 accumulators of AVX-512's 32 registers, 12 of AVX2's 16.
constexpr int kSide = 4;
constexpr int kBlocks = HWY_TARGET <= HWY_AVX3 ? 4 : 3;
constexpr Index kLaneRows = 32;  // rows of keys whose scores are in flight at once

// Rows of keys: lane i of row s is key base + s * stride + i.
struct KeyStrip {
  float* k = nullptr;
  float* v = nullptr;
  Index base = 0, stride = 0;
  Index rows = 0;  // stored, a multiple of kSide

  float* Keys(Index row, Index words) const { return k + row * words * kLanes; }
  // Of row `row`, whose chunk starts at `chunk`, all columns of the strip being `columns`.
  template <class T>
  float* Values(Index chunk, Index row, Index columns, Index column) const {
    const Index at = chunk * columns + column * std::min(kLaneRows, rows - chunk);
    return v + (at + (row - chunk) * kSide) / Words<T>::kElements * kLanes;
  }
};

// Which pairs count: of row s and block i those that lie `apart` or more before own + i (or, not
// causal, behind it), in lanes whose keys are in [low, high).
struct LaneEdges {
  Index own = 0, apart = 0, low = 0, high = 0;
  bool causal = false;

  bool Counts(Index s, Index own_row) const {
    return own_row - s >= apart || (!causal && s - own_row >= apart);
  }
  // Whether rows [s, s + kSide) count whole for all blocks.
  bool Whole(const KeyStrip& strip, Index s) const {
    const Index key = strip.base + s * strip.stride;
    return (own - (s + kSide - 1) >= apart || (!causal && s - (own + kBlocks - 1) >= apart)) &&
           key >= low && key + (kSide - 1) * strip.stride + kLanes <= high;
  }
  HWY_INLINE VF Masked(const KeyStrip& strip, Index s, int block, VF score) const {
    const hn::RebindToSigned<DF> di;
    const VF minus_inf = hn::Set(DF(), -HUGE_VALF);
    if (!Counts(s, own + block)) return minus_inf;
    const Index first = strip.base + s * strip.stride;
    const auto key = hn::Iota(di, static_cast<std::int32_t>(first));
    const auto inside = hn::And(hn::Ge(key, hn::Set(di, static_cast<std::int32_t>(low))),
                                hn::Lt(key, hn::Set(di, static_cast<std::int32_t>(high))));
    return hn::IfThenElse(hn::RebindMask(DF(), inside), score, minus_inf);
  }
};

// s[key][block][lane] of kSide rows from `row` on; max and sum [block][lane] as in ScoreTile.
template <class T>
HWY_NOINLINE void LaneScoreTile(const QueryBlock* blocks, int lane, const KeyStrip& strip,
                                Index row, const LaneEdges& edges, Index words, float factor,
                                float* HWY_RESTRICT s, float* HWY_RESTRICT max,
                                float* HWY_RESTRICT sum) {
  using W = Words<T>;
  const DF d;
  const float* q[kBlocks];
  VF acc[kBlocks][kSide];
  Unroll<kBlocks>([&](auto i) ATTNBENCH_INLINED {
    q[i] = blocks[i].q + lane;
    const VF start = hn::Load(d, blocks[i].start + lane);
    Unroll<kSide>([&](auto j) ATTNBENCH_INLINED { acc[i][j] = W::First(start); });
  });
  const float* HWY_RESTRICT k = strip.Keys(row, words);
  const auto word = [&](Index c) ATTNBENCH_INLINED {
    VF x[kBlocks];
    Unroll<kBlocks>([&](auto i) ATTNBENCH_INLINED { x[i] = hn::Load(d, q[i] + c * kQueries); });
    Unroll<kSide>([&](auto j) ATTNBENCH_INLINED {
      const float* at = k + (c * kSide + j) * kLanes;
      __builtin_prefetch(at + words * kSide * kLanes);  // the next tile's
      const VF y = hn::Load(d, at);
      Unroll<kBlocks>([&](auto i) ATTNBENCH_INLINED { acc[i][j] = W::MulAdd(y, x[i], acc[i][j]); });
    });
  };
  Index c = 0;
  for (; c + 4 <= words; c += 4) Unroll<4>([&](auto u) ATTNBENCH_INLINED { word(c + u); });
  for (; c < words; ++c) word(c);
  const bool whole = edges.Whole(strip, row);
  Unroll<kBlocks>([&](auto i) ATTNBENCH_INLINED {
    const VF start = hn::Load(d, blocks[i].start + lane);
    VF most = hn::Load(d, max + i * kLanes), total = hn::Load(d, sum + i * kLanes);
    Unroll<kSide>([&](auto j) ATTNBENCH_INLINED {
      VF x = W::Last(acc[i][j], hn::Set(d, factor), start);
      total = hn::Add(total, x);
      if (!whole) x = edges.Masked(strip, row + j, i, x);
      hn::Store(x, d, s + (j * kBlocks + i) * kLanes);
      most = hn::Max(most, x);
    });
    hn::Store(most, d, max + i * kLanes);
    hn::Store(total, d, sum + i * kLanes);
  });
}

// Of `words` words of probabilities [word][block][lane] and kSide columns of values from v on: adds
// to the first `columns` <= kSide of them in the outputs of every block.
template <class T>
HWY_NOINLINE void LaneOutputTile(QueryBlock* blocks, int lane, Index column, int columns,
                                 const float* HWY_RESTRICT p, const float* HWY_RESTRICT v,
                                 Index words) {
  using W = Words<T>;
  const DF d;
  VF acc[kBlocks][kSide];
  Unroll<kBlocks>([&](auto i) ATTNBENCH_INLINED {
    Unroll<kSide>([&](auto c) ATTNBENCH_INLINED { acc[i][c] = hn::Zero(d); });
  });
  const auto word = [&](Index j) ATTNBENCH_INLINED {
    VF x[kBlocks];
    Unroll<kBlocks>([&](auto i)
                        ATTNBENCH_INLINED { x[i] = hn::Load(d, p + (j * kBlocks + i) * kLanes); });
    Unroll<kSide>([&](auto c) ATTNBENCH_INLINED {
      const float* at = v + (j * kSide + c) * kLanes;
      __builtin_prefetch(at + words * kSide * kLanes);  // the next columns', of a whole chunk
      const VF y = hn::Load(d, at);
      Unroll<kBlocks>([&](auto i) ATTNBENCH_INLINED { acc[i][c] = W::MulAdd(y, x[i], acc[i][c]); });
    });
  };
  Index j = 0;
  for (; j + 4 <= words; j += 4) Unroll<4>([&](auto u) ATTNBENCH_INLINED { word(j + u); });
  for (; j < words; ++j) word(j);
  Unroll<kBlocks>([&](auto i) ATTNBENCH_INLINED {
    Unroll<kSide>([&](auto c) ATTNBENCH_INLINED {
      if (c >= columns) return;
      float* to = blocks[i].o + (column + c) * kQueries + lane;
      hn::Store(hn::Add(hn::Load(d, to), acc[i][c]), d, to);
    });
  });
}

// One vector of each of kBlocks open blocks, that at `lane`, attends rows [begin, end) of a strip.
template <class T>
void AttendStrip(const BlockEnds<T>& ends, Index words, Index v_dim, QueryBlock* blocks, int lane,
                 const KeyStrip& strip, Index begin, Index end, const LaneEdges& edges) {
  using W = Words<T>;
  const DF d;
  HWY_ALIGN float s[kLaneRows * kBlocks * kLanes];
  HWY_ALIGN float max[kBlocks * kLanes];
  HWY_ALIGN float sum[kBlocks * kLanes];
  const Index columns = (v_dim + kSide - 1) / kSide * kSide;
  for (Index at = begin / kSide * kSide, rows; at < end; at += rows) {
    const Index chunk = at / kLaneRows * kLaneRows;
    rows = std::min(chunk + kLaneRows - at, (end - at + kSide - 1) / kSide * kSide);
    std::fill_n(max, kBlocks * kLanes, -HUGE_VALF);
    std::fill_n(sum, kBlocks * kLanes, 0.0f);
    for (Index j = 0; j < rows; j += kSide)
      LaneScoreTile<T>(blocks, lane, strip, at + j, edges, words, ends.LogitFactor(),
                       s + j * kBlocks * kLanes, max, sum);
    for (int i = 0; i < kBlocks; ++i) {
      PoisonSum(blocks[i], lane, hn::Load(d, sum + i * kLanes));
      ends.MoveReference(&blocks[i], lane, hn::Load(d, max + i * kLanes), W::kElements == 2,
                         s + i * kLanes, rows, kBlocks * kLanes);
    }
    VF total[kBlocks];
    Unroll<kBlocks>([&](auto i) ATTNBENCH_INLINED { total[i] = hn::Zero(d); });
    const Index count = rows / W::kElements;
    for (Index j = 0; j < count; ++j) {
      Unroll<kBlocks>([&](auto i) ATTNBENCH_INLINED {
        const float* const scores = s + (j * W::kElements * kBlocks + i) * kLanes;
        const VF p = W::template Probabilities<W::kFastForm>(scores, kBlocks * kLanes);
        hn::Store(p, d, s + (j * kBlocks + i) * kLanes);
        total[i] = hn::Add(total[i], W::Sum(p));
      });
    }
    Unroll<kBlocks>([&](auto i) ATTNBENCH_INLINED {
      float* x = blocks[i].sum + lane;
      hn::Store(hn::Add(hn::Load(d, x), total[i]), d, x);
    });
    for (Index c = 0; c < v_dim; c += kSide)
      LaneOutputTile<T>(blocks, lane, c, static_cast<int>(std::min<Index>(kSide, v_dim - c)), s,
                        strip.Values<T>(chunk, at, columns, c), count);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
