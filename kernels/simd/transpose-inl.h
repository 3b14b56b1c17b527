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

// Rounds to nearest even in integers (Highway's own demotion truncates on some targets).
template <class D32, class V = hn::Vec<D32>>
HWY_INLINE V RoundedBF16Bits(D32 d, V bits) {
  const V odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1u));
  const V rounded = hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7fffu)));
  const auto nan = hn::Gt(hn::And(bits, hn::Set(d, 0x7fffffffu)), hn::Set(d, 0x7f800000u));
  return hn::IfThenElse(nan, hn::Or(bits, hn::Set(d, 0x400000u)), rounded);
}

// The 16-byte pieces at rows[4 b + r], b = 0, 1, ..., as the blocks of one vector.
template <class T>
HWY_INLINE VF GatherBlocks(const T* const* rows, Index column, int r) {
#if HWY_MAX_BYTES == 16
  return Load4(rows[r] + column);
#elif HWY_MAX_BYTES == 32
  return hn::Combine(DF(), Load4(rows[4 + r] + column), Load4(rows[r] + column));
#else
  const hn::Full256<float> d8;
  return hn::Combine(DF(),
                     hn::Combine(d8, Load4(rows[12 + r] + column), Load4(rows[8 + r] + column)),
                     hn::Combine(d8, Load4(rows[4 + r] + column), Load4(rows[r] + column)));
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

// to[c * stride + lane] = factor * rows[lane][c] for kLanes rows and c in [0, columns).
template <class T>
HWY_INLINE void TransposeIn(const T* const* rows, Index columns, float factor, float* to,
                            Index stride) {
  const VF f = hn::Set(DF(), factor);
  Index c = 0;
  for (; c + 4 <= columns; c += 4) {
    VF v0 = GatherBlocks(rows, c, 0), v1 = GatherBlocks(rows, c, 1);
    VF v2 = GatherBlocks(rows, c, 2), v3 = GatherBlocks(rows, c, 3);
    Transpose4x4(v0, v1, v2, v3);
    hn::StoreU(hn::Mul(v0, f), DF(), to + c * stride);
    hn::StoreU(hn::Mul(v1, f), DF(), to + (c + 1) * stride);
    hn::StoreU(hn::Mul(v2, f), DF(), to + (c + 2) * stride);
    hn::StoreU(hn::Mul(v3, f), DF(), to + (c + 3) * stride);
  }
  for (; c < columns; ++c)
    for (int lane = 0; lane < kLanes; ++lane)
      to[c * stride + lane] = factor * ToFloat(rows[lane][c]);
}

// to[c * stride + lane] = the pair rows[lane][2 c], rows[lane][2 c + 1], for all pairs of `columns`
// columns; an odd column is paired with zero.
HWY_INLINE void TransposePairs(const BFloat16* const* rows, Index columns, float* to,
                               Index stride) {
  const float* words[kLanes];
  for (int lane = 0; lane < kLanes; ++lane)
    words[lane] = reinterpret_cast<const float*>(rows[lane]);
  Index c = 0;
  for (; 2 * c + 8 <= columns; c += 4) {
    VF v0 = GatherBlocks(words, c, 0), v1 = GatherBlocks(words, c, 1);
    VF v2 = GatherBlocks(words, c, 2), v3 = GatherBlocks(words, c, 3);
    Transpose4x4(v0, v1, v2, v3);
    hn::StoreU(v0, DF(), to + c * stride);
    hn::StoreU(v1, DF(), to + (c + 1) * stride);
    hn::StoreU(v2, DF(), to + (c + 2) * stride);
    hn::StoreU(v3, DF(), to + (c + 3) * stride);
  }
  for (; 2 * c < columns; ++c) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const std::uint32_t high = 2 * c + 1 < columns ? rows[lane][2 * c + 1].bits : 0u;
      to[c * stride + lane] = std::bit_cast<float>(high << 16 | rows[lane][2 * c].bits);
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

// rows[lane][c] = factor[lane] * from[c * stride + lane] for `count` rows; the inverse of
// TransposeIn.
HWY_INLINE void TransposeOut(const float* from, Index stride, Index columns, VF factor,
                             float* const* rows, int count) {
  Index c = 0;
  for (; c + 4 <= columns; c += 4) {
    VF v[4];
    LoadTransposed(from, stride, c, factor, v);
    Unroll<4>([&](auto r) ATTNBENCH_INLINED {
      Unroll<kLanes / 4>([&](auto b) ATTNBENCH_INLINED {
        if (4 * b + r < count) Store4(hn::ExtractBlock<b>(v[r]), rows[4 * b + r] + c);
      });
    });
  }
  for (; c < columns; ++c) {
    HWY_ALIGN float column[kLanes];
    hn::Store(hn::Mul(hn::LoadU(DF(), from + c * stride), factor), DF(), column);
    for (int lane = 0; lane < count; ++lane) rows[lane][c] = column[lane];
  }
}

// Eight columns at a time: rounded as whole vectors, then two of them packed block by block, which
// leaves 16 bytes of one row in each.
HWY_INLINE void TransposeOut(const float* from, Index stride, Index columns, VF factor,
                             BFloat16* const* rows, int count) {
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
        if (4 * block + r < count)
          hn::StoreU(hn::ExtractBlock<block>(words), hn::Full128<std::uint16_t>(),
                     reinterpret_cast<std::uint16_t*>(rows[4 * block + r] + c));
      });
    });
  }
  for (; c < columns; ++c) {
    HWY_ALIGN float column[kLanes];
    hn::Store(hn::Mul(hn::LoadU(DF(), from + c * stride), factor), DF(), column);
    for (int lane = 0; lane < count; ++lane) rows[lane][c] = BFloat16::FromFloat(column[lane]);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
