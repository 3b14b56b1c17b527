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
HWY_INLINE void Store4(VF4 v, float* to) { hn::StoreU(v, DF4(), to); }

// Rounds to nearest even in integers (Highway's own demotion truncates on some targets). Not for
// NaN, whose payload may carry: rows that are not finite are written by RecomputeRow.
template <class D32, class V = hn::Vec<D32>>
HWY_INLINE V RoundedBF16Bits(D32 d, V bits) {
  const V odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1u));
  return hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7fffu)));
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

// The 16-byte pieces of rows 4 b + r, b = 0, 1, ..., as the blocks of one vector.
template <bool kWhole, class T>
HWY_INLINE VF GatherBlocks(const LaneRows<T>& rows, Index column, int r) {
  const auto piece = [&](int b) ATTNBENCH_INLINED {
    return Load4(rows.template Row<kWhole>(4 * b + r) + column);
  };
#if HWY_MAX_BYTES == 16
  return piece(0);
#elif HWY_MAX_BYTES == 32
  return hn::Combine(DF(), piece(1), piece(0));
#else
  const hn::Full256<float> d8;
  return hn::Combine(DF(), hn::Combine(d8, piece(3), piece(2)),
                     hn::Combine(d8, piece(1), piece(0)));
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
template <bool kWhole, class T>
HWY_INLINE void TransposeInAs(const LaneRows<const T>& rows, Index columns, float factor, float* to,
                              Index stride) {
  const VF f = hn::Set(DF(), factor);
  Index c = 0;
  for (; c + 4 <= columns; c += 4) {
    VF v[4];
    Unroll<4>([&](auto r) ATTNBENCH_INLINED { v[r] = GatherBlocks<kWhole>(rows, c, r); });
    Transpose4x4(v[0], v[1], v[2], v[3]);
    Unroll<4>([&](auto r)
                  ATTNBENCH_INLINED { hn::StoreU(hn::Mul(v[r], f), DF(), to + (c + r) * stride); });
  }
  for (; c < columns; ++c)
    for (int lane = 0; lane < kLanes; ++lane)
      to[c * stride + lane] = factor * ToFloat(rows.template Row<false>(lane)[c]);
}
template <class T>
HWY_INLINE void TransposeIn(const LaneRows<const T>& rows, Index columns, float factor, float* to,
                            Index stride) {
  rows.count == kLanes ? TransposeInAs<true>(rows, columns, factor, to, stride)
                       : TransposeInAs<false>(rows, columns, factor, to, stride);
}

// The same of bf16 as they stand, eight columns a block.
template <bool kWhole>
HWY_INLINE VF PairBlocks(const LaneRows<const BFloat16>& rows, Index column, int r) {
  const auto piece = [&](int b) ATTNBENCH_INLINED {
    const BFloat16* row = rows.Row<kWhole>(4 * b + r) + column;
    return Load4(reinterpret_cast<const float*>(row));
  };
#if HWY_MAX_BYTES == 64
  const hn::Full256<float> d8;
  return hn::Combine(DF(), hn::Combine(d8, piece(3), piece(2)),
                     hn::Combine(d8, piece(1), piece(0)));
#else  // no target with bf16 dots has shorter vectors
  (void)piece;
  return hn::Zero(DF());
#endif
}

// to[c * stride + lane] = the pair row[lane][2 c], row[lane][2 c + 1], for all pairs of `columns`
// columns; an odd column is paired with zero.
template <bool kWhole>
HWY_INLINE void TransposePairsAs(const LaneRows<const BFloat16>& rows, Index columns, float* to,
                                 Index stride) {
  Index c = 0;
  for (; 2 * c + 8 <= columns; c += 4) {
    VF v[4];
    Unroll<4>([&](auto r) ATTNBENCH_INLINED { v[r] = PairBlocks<kWhole>(rows, 2 * c, r); });
    Transpose4x4(v[0], v[1], v[2], v[3]);
    Unroll<4>([&](auto r) ATTNBENCH_INLINED { hn::StoreU(v[r], DF(), to + (c + r) * stride); });
  }
  for (; 2 * c < columns; ++c) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const BFloat16* row = rows.Row<false>(lane);
      const std::uint32_t high = 2 * c + 1 < columns ? row[2 * c + 1].bits : 0u;
      to[c * stride + lane] = std::bit_cast<float>(high << 16 | row[2 * c].bits);
    }
  }
}
HWY_INLINE void TransposePairs(const LaneRows<const BFloat16>& rows, Index columns, float* to,
                               Index stride) {
  rows.count == kLanes ? TransposePairsAs<true>(rows, columns, to, stride)
                       : TransposePairsAs<false>(rows, columns, to, stride);
}

// The four columns c ... c + 3 of from, times factor, as rows: block b of v[r] is row 4 b + r.
HWY_INLINE void LoadTransposed(const float* from, Index stride, Index c, VF factor, VF (&v)[4]) {
  Unroll<4>([&](auto r) ATTNBENCH_INLINED {
    v[r] = hn::Mul(hn::LoadU(DF(), from + (c + r) * stride), factor);
  });
  Transpose4x4(v[0], v[1], v[2], v[3]);
}

// row[lane][c] = factor[lane] * from[c * stride + lane]; the inverse of TransposeIn.
template <bool kWhole>
HWY_INLINE void TransposeOutAs(const float* from, Index stride, Index columns, VF factor,
                               const LaneRows<float>& rows) {
  Index c = 0;
  for (; c + 4 <= columns; c += 4) {
    VF v[4];
    LoadTransposed(from, stride, c, factor, v);
    Unroll<kLanes / 4>([&](auto b) ATTNBENCH_INLINED {
      Unroll<4>([&](auto r) ATTNBENCH_INLINED {
        if (kWhole || 4 * b + r < rows.count)
          Store4(hn::ExtractBlock<b>(v[r]), rows.template Row<true>(4 * b + r) + c);
      });
    });
  }
  for (; c < columns; ++c) {
    HWY_ALIGN float column[kLanes];
    hn::Store(hn::Mul(hn::LoadU(DF(), from + c * stride), factor), DF(), column);
    for (int lane = 0; lane < rows.count; ++lane) rows.Row<true>(lane)[c] = column[lane];
  }
}

// Eight columns at a time: rounded as whole vectors, then two of them packed block by block, which
// leaves 16 bytes of one row in each.
template <bool kWhole>
HWY_INLINE void TransposeOutAs(const float* from, Index stride, Index columns, VF factor,
                               const LaneRows<BFloat16>& rows) {
  const hn::RebindToUnsigned<DF> du;
  const hn::RebindToSigned<DF> di;
  const hn::Repartition<std::uint16_t, DF> du16;
  const auto high_half = [&](VF x) ATTNBENCH_INLINED {
    return hn::BitCast(di, hn::ShiftRight<16>(RoundedBF16Bits(du, hn::BitCast(du, x))));
  };
  Index c = 0;
  for (; c + 8 <= columns; c += 8) {
    VF a[4], b[4];
    LoadTransposed(from, stride, c, factor, a);
    LoadTransposed(from, stride, c + 4, factor, b);
    Unroll<4>([&](auto r) ATTNBENCH_INLINED {
      const auto words = hn::ReorderDemote2To(du16, high_half(a[r]), high_half(b[r]));
      Unroll<kLanes / 4>([&](auto block) ATTNBENCH_INLINED {
        if (kWhole || 4 * block + r < rows.count)
          hn::StoreU(hn::ExtractBlock<block>(words), hn::Full128<std::uint16_t>(),
                     reinterpret_cast<std::uint16_t*>(rows.template Row<true>(4 * block + r) + c));
      });
    });
  }
  for (; c < columns; ++c) {
    HWY_ALIGN float column[kLanes];
    hn::Store(hn::Mul(hn::LoadU(DF(), from + c * stride), factor), DF(), column);
    for (int lane = 0; lane < rows.count; ++lane)
      rows.Row<true>(lane)[c] = BFloat16::FromFloat(column[lane]);
  }
}

template <class T>
HWY_INLINE void TransposeOut(const float* from, Index stride, Index columns, VF factor,
                             const LaneRows<T>& rows) {
  rows.count == kLanes ? TransposeOutAs<true>(from, stride, columns, factor, rows)
                       : TransposeOutAs<false>(from, stride, columns, factor, rows);
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
