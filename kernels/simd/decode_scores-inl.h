// SPDX-License-Identifier: Apache-2.0
// Logits of a few query rows against a run of keys, as decoding needs them: K is streamed row by
// row exactly as it lies in memory, nothing of it is packed, and a load of it serves all rows of
// the tile.
//
// Two ways to fill the lanes, both with the head dimension in them, so that sums across lanes
// remain. Enough rows to fill a vector's 16-byte blocks: every block holds 16 bytes of another row,
// K is broadcast in pieces of 16 bytes, and four keys' sums need 6 shuffles a vector of logits.
// Several keys are read side by side, which the hardware's prefetchers take for no stream: every
// line is asked for by software, a fixed way ahead.
// Fewer rows: whole vectors of K, and a tree over all lanes, 31 shuffles a vector of logits. K is
// read line after line, as it lies, and left to the hardware's prefetchers, which do best alone.
//
// f32, and bf16 where the target multiplies bf16 pairs natively; elsewhere the caller widens bf16.

// Per-target include guard.
#if defined(ATTNBENCH_KERNELS_SIMD_DECODE_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_DECODE_SCORES_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_DECODE_SCORES_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_DECODE_SCORES_INL_H_
#endif

#include <algorithm>
#include <limits>

#include "hwy/highway.h"
#include "kernels/simd/decode_rows-inl.h"
#include "kernels/simd/decode_units.h"
#include "kernels/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace decode {

using decode_units::RowTiles;
using BF16 = hwy::bfloat16_t;
using DBF = hn::ScalableTag<BF16>;
using VBF = hn::Vec<DBF>;
constexpr float kNegInf = -std::numeric_limits<float>::infinity();

// ---- Element types

template <class T>
struct Element;
template <>
struct Element<float> {
  using D = DF;
  static HWY_INLINE VF Dot(VF a, VF b, VF sum) { return hn::MulAdd(a, b, sum); }
};
template <>
struct Element<BF16> {
  using D = DBF;
  // Both products of a pair go to `sum` where the dot is native; the second sum then stays zero.
  static HWY_INLINE VF Dot(VBF a, VBF b, VF sum) {
    VF none = hn::Zero(DF());
    return hn::ReorderWidenMulAccumulate(DF(), a, b, sum, none);
  }
};

// ---- Tiles of rows

constexpr int kBlocks = kLanes / 4;   // of 16 bytes in a vector
constexpr int kMaxRows = kLanes / 2;  // of a tile: two vectors of blocks
template <int kRows>
constexpr bool kRowsInBlocks = kRows > kBlocks;
// Logits, and the weights made of them, lie in groups of keys: row by row, a group's keys of a row
// together. A group is one vector or more, so that maximum, exp and sum are lane-wise. Three rows
// lie as four do; the fourth's logits are zero and are not used.
template <int kRows>
constexpr int kPlaces = kRows == 3 ? 4 : kRows;
template <int kRows>
constexpr int kGroup = std::max(4, kLanes / kPlaces<kRows>);
template <int kRows>
constexpr int kGroupVectors = kPlaces<kRows> * kGroup<kRows> / kLanes;
template <int kRows>
constexpr Index LogitAt(Index row, Index j) {
  constexpr int kKeys = kGroup<kRows>;
  return j / kKeys * (kPlaces<kRows> * kKeys) + row * kKeys + j % kKeys;
}
// Keys whose sums are in registers together: 16 accumulators of 32 registers, 8 of 16.
template <int kRows>
constexpr int kTileKeys =
    kRowsInBlocks<kRows> ? (kLanes == 16 ? 16 : 8) / (kRows / kBlocks) : kGroup<kRows>;

// Calls f(integral_constant<int, kRows>, first row) for tiles that cover `rows` rows. What remains
// of them is one whole tile if there are `whole` rows, which may reach beyond them. Five rows may
// be three and two: three come first, which hide more of what they wait for, and lie last, where
// their fourth place is free.
template <class F>
HWY_INLINE void ForEachRowTile(Index rows, const RowTiles& tiles, F f) {
  Index row = 0;
  for (; row + tiles.whole <= rows; row += kMaxRows)
    f(std::integral_constant<int, kMaxRows>(), row);
  if constexpr (kMaxRows > 4) {
    if (row + 5 == rows && tiles.three_and_two)
      f(std::integral_constant<int, 3>(), row + 2), rows = row + 2;
    if (row + 4 <= rows) f(std::integral_constant<int, 4>(), row), row += 4;
    if (row + 3 <= rows) f(std::integral_constant<int, 3>(), row), row += 3;
  }
  if constexpr (kMaxRows > 2) {
    if (row + 2 <= rows) f(std::integral_constant<int, 2>(), row), row += 2;
  }
  if (row < rows) f(std::integral_constant<int, 1>(), row);
}

// From caches no row is wasted. From memory up to two that are cost less than two tiles, of f32
// three: what two tiles read comes twice.
constexpr RowTiles RowTilesFor(bool far, bool f32) {
  if (kMaxRows <= 4) return {kMaxRows - (kMaxRows > 2), false};
  return far ? RowTiles{f32 ? 5 : 6, false} : RowTiles{kMaxRows, true};
}

// Where element c of a tile's row stands among its packed queries.
template <int kRows, class T>
HWY_INLINE Index QueryAt(Index stride, Index row, Index c) {
  constexpr Index kPiece = 16 / sizeof(T);
  if constexpr (!kRowsInBlocks<kRows>) return row * stride + c;
  return (c / kPiece * kRows + row) * kPiece + c % kPiece;
}

// ---- Sums across lanes

// Sums of four accumulators within each block of four lanes.
HWY_INLINE VF AddLanes(VF a, VF b, VF c, VF d) {
  const DF df;
  const hn::RepartitionToWide<DF> dd;
  const VF ab = hn::Add(hn::InterleaveLower(df, a, b), hn::InterleaveUpper(df, a, b));
  const VF cd = hn::Add(hn::InterleaveLower(df, c, d), hn::InterleaveUpper(df, c, d));
  const auto x = hn::BitCast(dd, ab), y = hn::BitCast(dd, cd);
  return hn::Add(hn::BitCast(df, hn::InterleaveLower(dd, x, y)),
                 hn::BitCast(df, hn::InterleaveUpper(dd, x, y)));
}
// Pairs of neighbouring blocks: a's sum to the even block, b's to the odd one.
HWY_INLINE VF AddNeighbours(VF a, VF b) {
  return hn::Add(hn::OddEvenBlocks(b, a), hn::SwapAdjacentBlocks(hn::OddEvenBlocks(a, b)));
}
// Lane 4 b + i of the result is the sum over all blocks of lane i of s[b].
HWY_INLINE VF AddBlocks(const VF (&s)[kBlocks]) {
  if constexpr (kBlocks == 4) {
    const DF df;
    // Halves first, so that blocks come out in order.
    return AddNeighbours(
        hn::Add(hn::ConcatLowerLower(df, s[2], s[0]), hn::ConcatUpperUpper(df, s[2], s[0])),
        hn::Add(hn::ConcatLowerLower(df, s[3], s[1]), hn::ConcatUpperUpper(df, s[3], s[1])));
  } else if constexpr (kBlocks == 2) {
    return AddNeighbours(s[0], s[1]);
  } else {
    return s[0];
  }
}

// ---- Tiles

// Rows in the blocks of a vector: sums[g * kVectors + v] are the logits of keys 4 g ... 4 g + 3 of
// the kBlocks rows of vector v. row(t): the t-th key of the tile.
template <int kRows, class T, class Row>
HWY_INLINE void TileInBlocks(const T* HWY_RESTRICT q, Row row, const Rows<T>& k,
                             VF (&sums)[kTileKeys<kRows> / 4 * kGroupVectors<kRows>]) {
  using E = Element<T>;
  using D = typename E::D;
  using V = hn::Vec<D>;
  const D d;
  constexpr int kKeys = kTileKeys<kRows>, kVectors = kGroupVectors<kRows>;
  constexpr Index kPiece = 16 / sizeof(T), kLine = 4 * kPiece;
  VF acc[kKeys][kVectors];
  Unroll<kKeys>([&](auto t) ATTNBENCH_INLINED {
    Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED { acc[t][v] = hn::Zero(DF()); });
  });
  const auto piece = [&](Index c, auto load) ATTNBENCH_INLINED {
    V x[kVectors];
    Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
      x[v] = InRegister(hn::Load(d, q + c * kRows + v * kBlocks * kPiece));
    });
    Unroll<kKeys>([&](auto t) ATTNBENCH_INLINED {
      const V y = InRegister<(kVectors > 1)>(load(row(t) + c));
      Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED { acc[t][v] = E::Dot(y, x[v], acc[t][v]); });
    });
  };
  const auto whole = [&](const T* from) ATTNBENCH_INLINED { return hn::LoadDup128(d, from); };
  Index c = 0;
  const Index columns = k.columns;
  for (; c + kLine <= columns; c += kLine) {
    Unroll<kKeys>([&](auto t) ATTNBENCH_INLINED { k.Fetch(row(t) + c); });
    Unroll<4>([&](auto u) ATTNBENCH_INLINED { piece(c + u * kPiece, whole); });
  }
  for (; c + kPiece <= columns; c += kPiece) piece(c, whole);
  if (c < columns) {
    piece(c, [&](const T* from) ATTNBENCH_INLINED {
      HWY_ALIGN T padded[kPiece] = {};
      hwy::CopyBytes(from, padded, (columns - c) * sizeof(T));
      return hn::LoadDup128(d, padded);
    });
  }
  Unroll<kKeys / 4>([&](auto g) ATTNBENCH_INLINED {
    Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
      sums[g * kVectors + v] =
          AddLanes(acc[4 * g][v], acc[4 * g + 1][v], acc[4 * g + 2][v], acc[4 * g + 3][v]);
    });
  });
}

// Rows of queries held in registers, as far as they go beside sums: `kHeld` vectors a row, if K's
// rows are just so long.
constexpr int kHeldQueries = kLanes == 16 ? 20 : 0;

template <int kRows, int kHeld, class T>
struct LaneQueries {
  using V = hn::Vec<typename Element<T>::D>;
  static constexpr Index kVector = kLanes * 4 / sizeof(T);
  static constexpr int kKept = std::min(kRows * kHeld, kHeldQueries);

  HWY_INLINE LaneQueries(const T* rows, Index row_stride) : q(rows), stride(row_stride) {
    Unroll<kKept>([&](auto i)
                      ATTNBENCH_INLINED { kept[i] = InRegister(Load(i % kRows, i / kRows)); });
  }
  HWY_INLINE V Load(Index row, Index vector) const {
    return hn::Load(typename Element<T>::D(), q + row * stride + vector * kVector);
  }
  template <int kRow, int kAt>
  HWY_INLINE V Get() const {
    if constexpr (kAt * kRows + kRow < kKept) return kept[kAt * kRows + kRow];
    return Load(kRow, kAt);
  }

  const T* HWY_RESTRICT q;
  Index stride;
  V kept[std::max(kKept, 1)];
};

// One key's products with all rows, in the lanes of sums[row * kStep].
template <int kStep, int kRows, int kHeld, class T>
HWY_INLINE void MultiplyKey(const LaneQueries<kRows, kHeld, T>& q, const T* HWY_RESTRICT key,
                            Index columns, InOrder& in_order, VF* sums) {
  using E = Element<T>;
  const typename E::D d;
  constexpr Index kVector = kLanes * 4 / sizeof(T);
  VF acc[kRows];
  Unroll<kRows>([&](auto r) ATTNBENCH_INLINED { acc[r] = hn::Zero(DF()); });
  if constexpr (kHeld > 0) {
    Unroll<kHeld>([&](auto u) ATTNBENCH_INLINED {
      const auto y = in_order.Load(d, key + u * kVector);
      Unroll<kRows>([&](auto r)
                        ATTNBENCH_INLINED { acc[r] = E::Dot(y, q.template Get<r, u>(), acc[r]); });
    });
  } else {
    // A multiply-add takes 4 cycles: few long sums are doubled.
    constexpr int kSets = kLanes == 16 ? 1 : kRows == 1 ? 4 : kRows == 2 ? 2 : 1;
    VF sets[kSets][kRows];
    Unroll<kRows * kSets>([&](auto i)
                              ATTNBENCH_INLINED { sets[i / kRows][i % kRows] = hn::Zero(DF()); });
    const auto column = [&](Index c, auto y, VF(&sum)[kRows]) ATTNBENCH_INLINED {
      Unroll<kRows>([&](auto r)
                        ATTNBENCH_INLINED { sum[r] = E::Dot(y, q.Load(r, c / kVector), sum[r]); });
    };
    Index c = 0;
    for (; c + 4 * kVector <= columns; c += 4 * kVector) {
      Unroll<4>([&](auto u) ATTNBENCH_INLINED {
        column(c + u * kVector, in_order.Load(d, key + c + u * kVector), sets[u % kSets]);
      });
    }
    for (; c + kVector <= columns; c += kVector) column(c, in_order.Load(d, key + c), sets[0]);
    if (HWY_UNLIKELY(c < columns)) column(c, in_order.LoadN(d, key + c, columns - c), sets[0]);
    Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
      acc[r] = sets[0][r];
      Unroll<kSets - 1>([&](auto s)
                            ATTNBENCH_INLINED { acc[r] = hn::Add(acc[r], sets[s + 1][r]); });
    });
  }
  Unroll<kRows>([&](auto r) ATTNBENCH_INLINED { sums[r * kStep] = acc[r]; });
}

// Calls f(0) ... f(kCount - 1), as constants or, to keep the code short, in a loop.
template <int kCount, bool kLoop, class F>
HWY_INLINE void ForEach(F f) {
  if constexpr (kLoop) {
    for (int i = 0; i < kCount; ++i) f(i);
  } else {
    Unroll<kCount>(f);
  }
}

// Rows fewer than blocks: sums[0] are the logits of kGroup keys of each row. Sums of four
// accumulators are made as soon as there are four, of a row or, where registers do not hold more,
// of a key.
template <int kRows, int kHeld, class T, class Row>
HWY_INLINE void TileInLanes(const LaneQueries<kRows, kHeld, T>& q, Row row, Index columns,
                            VF (&sums)[1]) {
  VF s[kBlocks];
  InOrder in_order;
  if constexpr (kRows <= 2 || (kRows == 3 && kHeld <= 4)) {
    constexpr int kFours = kBlocks / kPlaces<kRows>;  // of a row's keys
    ForEach<kFours, kHeld == 0>([&](auto g) ATTNBENCH_INLINED {
      VF acc[kRows][4];
      ForEach<4, kHeld == 0>([&](auto t) ATTNBENCH_INLINED {
        MultiplyKey<4>(q, row(g * 4 + t), columns, in_order, &acc[0][t]);
      });
      Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
        s[r * kFours + g] = AddLanes(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
      });
    });
    if constexpr (kRows == 3) s[3] = hn::Zero(DF());
    sums[0] = AddBlocks(s);
  } else {
    ForEach<kBlocks, kHeld == 0>([&](auto key) ATTNBENCH_INLINED {
      VF acc[4];
      acc[3] = hn::Zero(DF());
      MultiplyKey<1>(q, row(key), columns, in_order, acc);
      s[key] = AddLanes(acc[0], acc[1], acc[2], acc[3]);
    });
    // Key by key: row by row it shall be.
    alignas(64) static constexpr std::int32_t kTurned[16] = {0, 4, 8,  12, 1, 5, 9,  13,
                                                             2, 6, 10, 14, 3, 7, 11, 15};
    const DF df;
    sums[0] = hn::TableLookupLanes(AddBlocks(s), hn::SetTableIndices(df, kTurned));
  }
}

// Lane-wise over all keys of a run: maximum, and a sum that is not finite if a logit is not.
template <int kRows>
struct Extremes {
  VF max[kGroupVectors<kRows>], sum[kGroupVectors<kRows>];
};

// Logits of kRows rows against `keys` keys, unscaled, in the order of LogitAt; those beyond the
// last key, up to a whole tile, are -inf. q: packed as QueryAt says, zero-padded. kHeld: vectors of
// a row of K; 0: any.
template <int kRows, int kHeld, class T>
HWY_INLINE Extremes<kRows> LogitsHolding(const T* HWY_RESTRICT q, Index q_stride, const Rows<T>& k,
                                         Index keys, float* HWY_RESTRICT logits) {
  const DF df;
  constexpr int kKeys = kTileKeys<kRows>, kVectors = kGroupVectors<kRows>;
  constexpr int kSums = kKeys * kPlaces<kRows> / kLanes;
  Extremes<kRows> extremes;
  Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
    extremes.max[v] = hn::Set(df, kNegInf);
    extremes.sum[v] = hn::Zero(df);
  });
  const auto tile = [&](const auto& queries, auto row, VF(&sums)[kSums]) ATTNBENCH_INLINED {
    if constexpr (kRowsInBlocks<kRows>) {
      TileInBlocks<kRows>(q, row, k, sums);
    } else {
      TileInLanes(queries, row, k.columns, sums);
    }
    Unroll<kSums>([&](auto i) ATTNBENCH_INLINED {
      extremes.sum[i % kVectors] = hn::Add(extremes.sum[i % kVectors], sums[i]);
    });
  };
  const auto keep = [&](Index j, const VF(&sums)[kSums]) ATTNBENCH_INLINED {
    Unroll<kSums>([&](auto i) ATTNBENCH_INLINED {
      hn::Store(sums[i], df, logits + j * kPlaces<kRows> + i * kLanes);
      extremes.max[i % kVectors] = hn::Max(extremes.max[i % kVectors], sums[i]);
    });
  };
  VF sums[kSums];
  Index j = 0;
  const LaneQueries<kRows, kHeld, T> queries(q, q_stride);
  for (; j + kKeys <= keys; j += kKeys) {
    const T* const first = k[j];
    tile(queries, [&](auto t) ATTNBENCH_INLINED { return first + t * k.stride; }, sums);
    keep(j, sums);
  }
  if (j < keys) {
    // Short code: once a run.
    tile(
        LaneQueries<kRows, 0, T>(q, q_stride),
        [&](auto t) ATTNBENCH_INLINED { return k[std::min<Index>(j + t, keys - 1)]; }, sums);
    const hn::RebindToSigned<DF> di;
    const auto key = hn::And(hn::Iota(di, 0), hn::Set(di, kGroup<kRows> - 1));
    Unroll<kSums>([&](auto i) ATTNBENCH_INLINED {
      constexpr int first = i / kVectors * kGroup<kRows>;
      const auto beyond = hn::Ge(key, hn::Set(di, static_cast<int>(keys - j) - first));
      sums[i] = hn::IfThenElse(hn::RebindMask(df, beyond), hn::Set(df, kNegInf), sums[i]);
    });
    keep(j, sums);
  }
  return extremes;
}

template <int kRows, class T>
HWY_INLINE Extremes<kRows> Logits(const T* HWY_RESTRICT q, Index q_stride, const Rows<T>& k,
                                  Index keys, float* HWY_RESTRICT logits) {
  if constexpr (!kRowsInBlocks<kRows> && kHeldQueries > 0) {
    // Usual widths, 64 ... 256 in bf16, 32 ... 256 in f32: 1.1 to 2 times as fast as any width.
    constexpr bool kF32 = std::is_same_v<T, float>;
    constexpr Index kVector = kLanes * 4 / sizeof(T);
    if (k.columns == 8 * kVector) return LogitsHolding<kRows, 8>(q, q_stride, k, keys, logits);
    if (k.columns == 4 * kVector) return LogitsHolding<kRows, 4>(q, q_stride, k, keys, logits);
    if (k.columns == 2 * kVector) return LogitsHolding<kRows, 2>(q, q_stride, k, keys, logits);
    if constexpr (kF32) {
      if (k.columns == 16 * kVector) return LogitsHolding<kRows, 16>(q, q_stride, k, keys, logits);
      if (k.columns == 6 * kVector) return LogitsHolding<kRows, 6>(q, q_stride, k, keys, logits);
      if (k.columns == 5 * kVector) return LogitsHolding<kRows, 5>(q, q_stride, k, keys, logits);
    } else {
      if (k.columns == 3 * kVector) return LogitsHolding<kRows, 3>(q, q_stride, k, keys, logits);
    }
  }
  return LogitsHolding<kRows, 0>(q, q_stride, k, keys, logits);
}

}  // namespace decode
}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
