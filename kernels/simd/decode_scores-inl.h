// SPDX-License-Identifier: Apache-2.0
// Logits of a few query rows against a run of keys, as decoding needs them: K is streamed row by
// row exactly as it lies in memory, nothing of it is packed, and a load of it serves all rows of
// the tile.
//
// Two ways to fill the lanes, both with the head dimension in them, so that sums across lanes
// remain. Enough rows to fill a vector's 16-byte blocks: every block holds 16 bytes of another row,
// K is broadcast in pieces of 16 bytes, and four keys' sums need 6 shuffles a vector of logits.
// Fewer rows: whole vectors of K, and a tree over all lanes, 31 shuffles a vector of logits.
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

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/contract/tensor.h"
#include "kernels/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace decode {

using BF16 = hwy::bfloat16_t;
using DBF = hn::ScalableTag<BF16>;
using VBF = hn::Vec<DBF>;
constexpr float kNegInf = -std::numeric_limits<float>::infinity();

// Keeps a loaded vector in a register. The compiler would rather load it again as an operand of
// each multiply-add, and loads are what a core has least of (Zen 4: one of 512 bits a cycle).
// Not for what is used once.
template <bool kReused = true, class V>
HWY_INLINE V InRegister(V v) {
#if HWY_ARCH_X86
  if constexpr (kReused) asm("" : "+v"(v.raw));
#endif
  return v;
}

// Rows of K or V.
template <class T>
struct Rows {
  const T* data;
  Index stride, columns;  // elements
  HWY_INLINE const T* operator[](Index row) const { return data + row * stride; }
};

// ---- What is fetched from memory meanwhile

// Lines of rows that come next, so many at every step of what is computed now. Into the
// second-level cache: the first can have too few lines under way to keep memory busy.
class Ahead {
 public:
  Ahead() = default;
  // `rows` rows of `bytes` bytes within `steps` calls of Fetch; none of which goes on from one row
  // to another, unless they lie end to end.
  Ahead(const void* data, Index stride, Index bytes, Index rows, Index steps) : rows_(rows) {
    if (stride == bytes) bytes *= rows, rows_ = std::min<Index>(rows, 1);
    next_ = static_cast<const char*>(data);
    row_end_ = next_ + bytes;
    stride_ = stride, gap_ = stride - bytes;
    const Index lines = (bytes + 63) / 64,
                turns = std::max<Index>(steps / std::max<Index>(rows_, 1), 1);
    a_step_ = (lines + turns - 1) / turns * 64;
  }
  HWY_INLINE void Fetch() {
    const char* const end = std::min(next_ + a_step_, row_end_);
    for (; next_ < end; next_ += 64) __builtin_prefetch(next_, 0, 2);
    if (HWY_UNLIKELY(next_ >= row_end_) && --rows_ > 0)
      next_ = row_end_ + gap_, row_end_ += stride_;
  }

 private:
  const char *next_ = nullptr, *row_end_ = nullptr;
  Index a_step_ = 0, rows_ = 0, gap_ = 0, stride_ = 0;
};

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
// together. A group is one vector or more, so that maximum, exp and sum are lane-wise.
template <int kRows>
constexpr int kGroup = std::max(4, kLanes / kRows);
template <int kRows>
constexpr int kGroupVectors = kRows * kGroup<kRows> / kLanes;
template <int kRows>
constexpr Index LogitAt(Index row, Index j) {
  constexpr int kKeys = kGroup<kRows>;
  return j / kKeys * (kRows * kKeys) + row * kKeys + j % kKeys;
}
// Keys whose sums are in registers together: 16 accumulators of 32 registers, 8 of 16.
template <int kRows>
constexpr int kTileKeys =
    kRowsInBlocks<kRows> ? (kLanes == 16 ? 16 : 8) / (kRows / kBlocks) : kGroup<kRows>;

// Rows so few that they do nothing but stream.
constexpr int kStreamRows = std::min(2, kBlocks);

// Calls f(integral_constant<int, kRows>, first row) for tiles that cover `rows` rows. The last may
// reach beyond them: one row that is wasted costs less than a tile of its own.
template <class F>
HWY_INLINE void ForEachRowTile(Index rows, F f) {
  Index row = 0;
  for (; row + kMaxRows - (kMaxRows > 2) <= rows; row += kMaxRows)
    f(std::integral_constant<int, kMaxRows>(), row);
  if constexpr (kMaxRows > 4) {
    if (row + 3 <= rows) f(std::integral_constant<int, 4>(), row), row += 4;
  }
  if constexpr (kMaxRows > 2) {
    if (row + 2 <= rows) f(std::integral_constant<int, 2>(), row), row += 2;
  }
  if (row < rows) f(std::integral_constant<int, 1>(), row);
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
// Lane i of the result is the sum over the lanes of acc[i].
HWY_INLINE VF SumAcross(const VF (&acc)[kLanes]) {
  const VF s0 = AddLanes(acc[0], acc[1], acc[2], acc[3]);
  if constexpr (kLanes == 16) {
    const DF df;
    const VF s1 = AddLanes(acc[4], acc[5], acc[6], acc[7]);
    const VF s2 = AddLanes(acc[8], acc[9], acc[10], acc[11]);
    const VF s3 = AddLanes(acc[12], acc[13], acc[14], acc[15]);
    // Halves first, so that blocks of s0 s1 s2 s3 come out in order.
    return AddNeighbours(
        hn::Add(hn::ConcatLowerLower(df, s2, s0), hn::ConcatUpperUpper(df, s2, s0)),
        hn::Add(hn::ConcatLowerLower(df, s3, s1), hn::ConcatUpperUpper(df, s3, s1)));
  } else if constexpr (kLanes == 8) {
    return AddNeighbours(s0, AddLanes(acc[4], acc[5], acc[6], acc[7]));
  } else {
    return s0;
  }
}

// ---- Tiles

// Rows in the blocks of a vector: sums[g * kVectors + v] are the logits of keys 4 g ... 4 g + 3 of
// the kBlocks rows of vector v. row(t): the t-th key of the tile.
template <int kRows, class T, class Row>
HWY_INLINE void TileInBlocks(const T* HWY_RESTRICT q, Row row, Index columns,
                             VF (&sums)[kTileKeys<kRows> / 4 * kGroupVectors<kRows>],
                             Ahead& ahead) {
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
  for (; c + kLine <= columns; c += kLine) {
    ahead.Fetch();
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

// Keys whose sums are made side by side. Where there is little arithmetic K must be read line after
// line, or the hardware's prefetchers lose it: two keys side by side halve one row's rate.
template <int kRows>
constexpr int kTogetherKeys = kRows <= kStreamRows ? 1 : 2;

// Vectors of queries that stay in registers beside the sums.
constexpr int kHeldQueries = kLanes == 16 ? 8 : 0;

// Rows fewer than blocks: sums[0] are the logits of kGroup keys of each row.
template <int kRows, class T, class Row>
HWY_INLINE void TileInLanes(const T* HWY_RESTRICT q, Index q_stride, Row row, Index columns,
                            VF (&sums)[1], Ahead& ahead) {
  using E = Element<T>;
  using D = typename E::D;
  using V = hn::Vec<D>;
  const D d;
  constexpr int kKeys = kGroup<kRows>;
  constexpr Index kVector = kLanes * 4 / sizeof(T);
  constexpr int kTogether = kTogetherKeys<kRows>;
  VF acc[kLanes];
  Unroll<kLanes>([&](auto i) ATTNBENCH_INLINED { acc[i] = hn::Zero(DF()); });
  // Rows of K of just so many vectors: queries stay in registers, nothing but K is loaded.
  const auto held = [&](auto vectors) ATTNBENCH_INLINED {
    if constexpr (vectors * kRows <= kHeldQueries) {
      if (columns != vectors * kVector) return false;
      V x[kRows][vectors];
      Unroll<kRows * vectors>([&](auto i) ATTNBENCH_INLINED {
        constexpr int r = i / vectors, u = i % vectors;
        x[r][u] = InRegister(hn::Load(d, q + r * q_stride + u * kVector));
      });
      Unroll<kKeys * vectors>([&](auto i) ATTNBENCH_INLINED {
        constexpr int key = i / vectors, u = i % vectors;
        if constexpr (u % 4 == 0) ahead.Fetch();
        const V y = InRegister<(kRows > 1)>(
            hn::LoadU(d, row(std::integral_constant<int, key>()) + u * kVector));
        Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
          acc[r * kKeys + key] = E::Dot(y, x[r][u], acc[r * kKeys + key]);
        });
      });
      return true;
    } else {
      return false;
    }
  };
  if (kRows <= kStreamRows &&
      (held(std::integral_constant<int, 8>()) || held(std::integral_constant<int, 4>()))) {
    sums[0] = SumAcross(acc);
    return;
  }
  const Index whole = columns / kVector * kVector, rest = columns - whole;
  Unroll<kKeys / kTogether>([&](auto group) ATTNBENCH_INLINED {
    const auto column = [&](Index c) ATTNBENCH_INLINED {
      V x[kRows];
      Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
        x[r] = InRegister<(kTogether > 1)>(hn::Load(d, q + r * q_stride + c));
      });
      Unroll<kTogether>([&](auto t) ATTNBENCH_INLINED {
        constexpr int i = group * kTogether + t;
        const V y =
            InRegister<(kRows > 1)>(hn::LoadU(d, row(std::integral_constant<int, i>()) + c));
        Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
          acc[r * kKeys + i] = E::Dot(y, x[r], acc[r * kKeys + i]);
        });
      });
    };
    Index c = 0;
    for (; c + 4 * kVector <= whole; c += 4 * kVector) {
      ahead.Fetch();
      Unroll<4>([&](auto u) ATTNBENCH_INLINED { column(c + u * kVector); });
    }
    for (; c < whole; c += kVector) column(c);
  });
  if (HWY_UNLIKELY(rest != 0)) {
    Unroll<kKeys>([&](auto i) ATTNBENCH_INLINED {
      const V y = hn::LoadN(d, row(i) + whole, rest);
      Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
        const V x = hn::Load(d, q + r * q_stride + whole);
        acc[r * kKeys + i] = E::Dot(y, x, acc[r * kKeys + i]);
      });
    });
  }
  sums[0] = SumAcross(acc);
}

// Calls of Ahead::Fetch in Logits.
template <int kRows, class T>
constexpr Index LogitSteps(Index keys, Index columns) {
  constexpr int kKeys = kTileKeys<kRows>;
  const Index tiles = (keys + kKeys - 1) / kKeys;
  if constexpr (kRowsInBlocks<kRows>) return tiles * (columns * sizeof(T) / 64);
  return tiles * (kKeys / kTogetherKeys<kRows>)*(columns * sizeof(T) / (16 * kLanes));
}

// Lane-wise over all keys of a run: maximum, and a sum that is not finite if a logit is not.
template <int kRows>
struct Extremes {
  VF max[kGroupVectors<kRows>], sum[kGroupVectors<kRows>];
};

// Logits of kRows rows against `keys` keys, unscaled, in the order of LogitAt; those beyond the
// last key, up to a whole tile, are -inf. q: packed as QueryAt says, zero-padded.
template <int kRows, class T>
HWY_INLINE Extremes<kRows> Logits(const T* HWY_RESTRICT q, Index q_stride, const Rows<T>& k,
                                  Index keys, float* HWY_RESTRICT logits, Ahead& shared) {
  const DF df;
  Ahead ahead = shared;  // in registers
  constexpr int kKeys = kTileKeys<kRows>, kVectors = kGroupVectors<kRows>;
  constexpr int kSums = kKeys * kRows / kLanes;
  Extremes<kRows> extremes;
  Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
    extremes.max[v] = hn::Set(df, kNegInf);
    extremes.sum[v] = hn::Zero(df);
  });
  const auto tile = [&](auto row, VF(&sums)[kSums]) ATTNBENCH_INLINED {
    if constexpr (kRowsInBlocks<kRows>) {
      TileInBlocks<kRows>(q, row, k.columns, sums, ahead);
    } else {
      TileInLanes<kRows>(q, q_stride, row, k.columns, sums, ahead);
    }
    Unroll<kSums>([&](auto i) ATTNBENCH_INLINED {
      extremes.sum[i % kVectors] = hn::Add(extremes.sum[i % kVectors], sums[i]);
    });
  };
  const auto keep = [&](Index j, const VF(&sums)[kSums]) ATTNBENCH_INLINED {
    Unroll<kSums>([&](auto i) ATTNBENCH_INLINED {
      hn::Store(sums[i], df, logits + j * kRows + i * kLanes);
      extremes.max[i % kVectors] = hn::Max(extremes.max[i % kVectors], sums[i]);
    });
  };
  VF sums[kSums];
  Index j = 0;
  for (; j + kKeys <= keys; j += kKeys) {
    const T* const first = k[j];
    tile([&](auto t) ATTNBENCH_INLINED { return first + t * k.stride; }, sums);
    keep(j, sums);
  }
  if (j < keys) {
    tile([&](auto t) ATTNBENCH_INLINED { return k[std::min<Index>(j + t, keys - 1)]; }, sums);
    const hn::RebindToSigned<DF> di;
    const auto key = hn::And(hn::Iota(di, 0), hn::Set(di, kGroup<kRows> - 1));
    Unroll<kSums>([&](auto i) ATTNBENCH_INLINED {
      constexpr int first = i / kVectors * kGroup<kRows>;
      const auto beyond = hn::Ge(key, hn::Set(di, static_cast<int>(keys - j) - first));
      sums[i] = hn::IfThenElse(hn::RebindMask(df, beyond), hn::Set(df, kNegInf), sums[i]);
    });
    keep(j, sums);
  }
  shared = ahead;
  return extremes;
}

}  // namespace decode
}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
