// SPDX-License-Identifier: Apache-2.0
// Between rows in memory and lanes: queries into lanes at the start of a block, outputs back into
// rows at its end. Four columns at a time: rows of 16 bytes into the blocks of a vector, then a
// 4 x 4 transpose inside each block. On 64 queries of d = 64 a scalar transpose costs 12 % of the
// whole.

#if defined(ATTNBENCH_KERNELS_SIMD_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_TRANSPOSE_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_TRANSPOSE_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_TRANSPOSE_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <type_traits>
#include <utility>

// Lambdas of the hot loops: not inlined, their vectors would live in memory (35 % instead of 86 %).
#undef ATTNBENCH_INLINED
#define ATTNBENCH_INLINED HWY_ATTR __attribute__((always_inline))

#include "hwy/highway.h"
#include "kernels/contract/tensor.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using DF4 = hn::Full128<float>;
using VF4 = hn::Vec<DF4>;
constexpr int kLanes = HWY_LANES(float);

// Calls f(integral_constant<int, i>) for i in [0, N): loops that must vanish at compile time, so
// that arrays of vectors become registers.
template <class F, int... kI>
HWY_INLINE void UnrollImpl(F&& f, std::integer_sequence<int, kI...>) {
  (f(std::integral_constant<int, kI>()), ...);
}
template <int N, class F>
HWY_INLINE void Unroll(F&& f) {
  UnrollImpl(f, std::make_integer_sequence<int, N>());
}

HWY_INLINE VF4 Load4(const float* from) { return hn::LoadU(DF4(), from); }
HWY_INLINE VF4 Load4(const BFloat16* from) {
  const hn::Full64<std::uint16_t> d16;
  const hn::Full128<std::uint32_t> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(from));
  return hn::BitCast(DF4(), hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}
// Of bf16 as they stand: eight columns, in pairs.
HWY_INLINE VF4 LoadPairs(const BFloat16* from) {
  return hn::LoadU(DF4(), reinterpret_cast<const float*>(from));
}
HWY_INLINE void Store4(VF4 v, float* to) { hn::StoreU(v, DF4(), to); }

// Rounds to nearest even in integers (Highway's own demotion truncates on some targets). Not for
// NaN, whose payload may carry: rows that are not finite are written by RecomputeRow.
template <class D32, class V = hn::Vec<D32>>
HWY_INLINE V RoundedBF16Bits(D32 d, V bits) {
  const V odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1u));
  return hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7fffu)));
}

// Says that a pointer may be anything now, so that sums of it and others are not kept beside it.
template <class P>
HWY_INLINE void Forget(P& pointer) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  asm("" : "+r"(pointer));
#endif
}

// kLanes rows of memory a constant stride apart. Lanes from `count` on repeat the last row when
// read, and are not written.
template <class T>
struct LaneRows {
  T* base = nullptr;
  Index stride = 0;
  int count = 0;

  // In whole blocks the addresses are arithmetic; 16 pointers would have to be spilled.
  template <bool kWhole>
  HWY_INLINE T* Row(int lane) const {
    return base + (kWhole ? lane : std::min(lane, count - 1)) * stride;
  }
};

// Where the rows of LaneRows go on, while their columns are walked through. Whole blocks of rows
// are addressed by four pointers and two strides, as addresses add them up: with 16 pointers most
// would be kept in vector registers, a move for each use.
template <class T>
class WholeRows {
 public:
  explicit WholeRows(const LaneRows<T>& rows)
      : at_{rows.base, rows.base + rows.stride, rows.base + 2 * rows.stride,
            rows.base + 3 * rows.stride},
        stride4_(4 * rows.stride),
        stride12_(12 * rows.stride) {}
  template <int kLane>
  HWY_INLINE T* Row() const {
    return at_[kLane % 4] + (kLane / 4 == 3 ? stride12_ : kLane / 4 * stride4_);
  }
  template <int kLane>
  static constexpr bool Has() {
    return true;
  }
  HWY_INLINE void Move(Index columns) {
    Unroll<4>([&](auto r) ATTNBENCH_INLINED {
      at_[r] += columns;
      Forget(at_[r]);
    });
  }

 private:
  T* at_[4];
  Index stride4_, stride12_;
};
template <class T>
class PartialRows {
 public:
  explicit PartialRows(const LaneRows<T>& rows) : rows_(rows) {}
  template <int kLane>
  HWY_INLINE T* Row() const {
    return rows_.template Row<false>(kLane);
  }
  template <int kLane>
  HWY_INLINE bool Has() const {
    return kLane < rows_.count;
  }
  HWY_INLINE void Move(Index columns) { rows_.base += columns; }

 private:
  LaneRows<T> rows_;
};
// f of the one or the other.
template <class T, class F>
HWY_INLINE void WithRows(const LaneRows<T>& rows, F f) {
  rows.count == kLanes ? f(WholeRows<T>(rows)) : f(PartialRows<T>(rows));
}

// The 16-byte pieces of rows 4 b + r, b = 0, 1, ..., as the blocks of one vector.
template <int r, class Rows, class LoadPiece>
HWY_INLINE VF GatherBlocks(const Rows& rows, LoadPiece load) {
#if HWY_MAX_BYTES == 16
  return load(rows.template Row<r>());
#elif HWY_MAX_BYTES == 32
  return hn::Combine(DF(), load(rows.template Row<4 + r>()), load(rows.template Row<r>()));
#else
  const hn::Full256<float> d8;
  return hn::Combine(
      DF(), hn::Combine(d8, load(rows.template Row<12 + r>()), load(rows.template Row<8 + r>())),
      hn::Combine(d8, load(rows.template Row<4 + r>()), load(rows.template Row<r>())));
#endif
}

HWY_INLINE void Transpose4x4(VF& a, VF& b, VF& c, VF& d) {
  const hn::RepartitionToWide<DF> dd;
  const auto ab0 = hn::BitCast(dd, hn::InterleaveLower(DF(), a, b));
  const auto cd0 = hn::BitCast(dd, hn::InterleaveLower(DF(), c, d));
  const auto ab1 = hn::BitCast(dd, hn::InterleaveUpper(DF(), a, b));
  const auto cd1 = hn::BitCast(dd, hn::InterleaveUpper(DF(), c, d));
  a = hn::BitCast(DF(), hn::InterleaveLower(dd, ab0, cd0));
  b = hn::BitCast(DF(), hn::InterleaveUpper(dd, ab0, cd0));
  c = hn::BitCast(DF(), hn::InterleaveLower(dd, ab1, cd1));
  d = hn::BitCast(DF(), hn::InterleaveUpper(dd, ab1, cd1));
}

// to[c * stride + lane] = factor * row[lane][c] for c in [0, columns).
template <class T>
HWY_INLINE void TransposeIn(const LaneRows<const T>& rows, Index columns, float factor, float* to,
                            Index stride) {
  WithRows(rows, [&](auto at) ATTNBENCH_INLINED {
    const VF f = hn::Set(DF(), factor);
    const auto load = [](const T* piece) ATTNBENCH_INLINED { return Load4(piece); };
    for (Index c = 0; c + 4 <= columns; c += 4) {
      VF v[4];
      Unroll<4>([&](auto r) ATTNBENCH_INLINED { v[r] = GatherBlocks<r>(at, load); });
      Transpose4x4(v[0], v[1], v[2], v[3]);
      Unroll<4>([&](auto r) ATTNBENCH_INLINED {
        hn::StoreU(hn::Mul(v[r], f), DF(), to + (c + r) * stride);
      });
      at.Move(4);
    }
  });
  for (Index c = columns / 4 * 4; c < columns; ++c)
    for (int lane = 0; lane < kLanes; ++lane)
      to[c * stride + lane] = factor * ToFloat(rows.template Row<false>(lane)[c]);
}

// to[c * stride + lane] = the pair row[lane][2 c], row[lane][2 c + 1], for all pairs of `columns`
// columns; an odd column is paired with zero.
HWY_INLINE void TransposePairs(const LaneRows<const BFloat16>& rows, Index columns, float* to,
                               Index stride) {
  WithRows(rows, [&](auto at) ATTNBENCH_INLINED {
    for (Index c = 0; 2 * c + 8 <= columns; c += 4) {
      VF v[4];
      Unroll<4>([&](auto r) ATTNBENCH_INLINED { v[r] = GatherBlocks<r>(at, LoadPairs); });
      Transpose4x4(v[0], v[1], v[2], v[3]);
      Unroll<4>([&](auto r) ATTNBENCH_INLINED { hn::StoreU(v[r], DF(), to + (c + r) * stride); });
      at.Move(8);
    }
  });
  for (Index c = columns / 8 * 4; 2 * c < columns; ++c) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const BFloat16* row = rows.Row<false>(lane);
      const std::uint32_t high = 2 * c + 1 < columns ? row[2 * c + 1].bits : 0u;
      to[c * stride + lane] = std::bit_cast<float>(high << 16 | row[2 * c].bits);
    }
  }
}

// The four columns c ... c + 3 of from, times factor, as rows: block b of v[r] is row 4 b + r.
HWY_INLINE void LoadTransposed(const float* from, Index stride, Index c, VF factor, VF (&v)[4]) {
  Unroll<4>([&](auto r) ATTNBENCH_INLINED {
    v[r] = hn::Mul(hn::LoadU(DF(), from + (c + r) * stride), factor);
  });
  Transpose4x4(v[0], v[1], v[2], v[3]);
}

// Two vectors rounded to nearest even and packed block by block: what were 16 bytes of a row in
// each are 16 bytes of it together.
HWY_INLINE hn::Vec<hn::Repartition<std::uint16_t, DF>> RoundedBF16(VF a, VF b) {
  const hn::Repartition<std::uint16_t, DF> du16;
#if HWY_TARGET <= HWY_AVX3_ZEN4
  const hn::Repartition<hwy::bfloat16_t, DF> db;
  const hn::Repartition<std::uint64_t, DF> du64;
  alignas(64) static constexpr std::uint64_t kHalves[] = {0, 4, 1, 5, 2, 6, 3, 7};
  const auto halves = hn::BitCast(du64, hn::ReorderDemote2To(db, a, b));  // in order, here
  return hn::BitCast(du16, hn::TableLookupLanes(halves, hn::SetTableIndices(du64, kHalves)));
#else
  const auto high_half = [](VF x) ATTNBENCH_INLINED {
    const hn::RebindToUnsigned<DF> du;
    return hn::BitCast(hn::RebindToSigned<DF>(),
                       hn::ShiftRight<16>(RoundedBF16Bits(du, hn::BitCast(du, x))));
  };
  return hn::ReorderDemote2To(du16, high_half(a), high_half(b));
#endif
}

// row[lane][c] = factor[lane] * from[c * stride + lane]; the inverse of TransposeIn.
template <class T>
HWY_INLINE void TransposeOut(const float* from, Index stride, Index columns, VF factor,
                             const LaneRows<T>& rows) {
  constexpr bool kBF16 = std::is_same_v<T, BFloat16>;
  constexpr Index kStep = kBF16 ? 8 : 4;
  WithRows(rows, [&](auto at) ATTNBENCH_INLINED {
    for (Index c = 0; c + kStep <= columns; c += kStep) {
      VF v[4], next[4];
      LoadTransposed(from, stride, c, factor, v);
      if constexpr (kBF16) LoadTransposed(from, stride, c + 4, factor, next);
      Unroll<4>([&](auto r) ATTNBENCH_INLINED {
        [[maybe_unused]] hn::Vec<hn::Repartition<std::uint16_t, DF>> words;
        if constexpr (kBF16) words = RoundedBF16(v[r], next[r]);
        Unroll<kLanes / 4>([&](auto b) ATTNBENCH_INLINED {
          constexpr int kLane = 4 * b + r;
          if (!at.template Has<kLane>()) return;
          if constexpr (kBF16) {
            hn::StoreU(hn::ExtractBlock<b>(words), hn::Full128<std::uint16_t>(),
                       reinterpret_cast<std::uint16_t*>(at.template Row<kLane>()));
          } else {
            Store4(hn::ExtractBlock<b>(v[r]), at.template Row<kLane>());
          }
        });
      });
      at.Move(kStep);
    }
  });
  for (Index c = columns / kStep * kStep; c < columns; ++c) {
    HWY_ALIGN float column[kLanes];
    hn::Store(hn::Mul(hn::LoadU(DF(), from + c * stride), factor), DF(), column);
    for (int lane = 0; lane < rows.count; ++lane) {
      if constexpr (kBF16)
        rows.template Row<true>(lane)[c] = BFloat16::FromFloat(column[lane]);
      else
        rows.template Row<true>(lane)[c] = column[lane];
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
