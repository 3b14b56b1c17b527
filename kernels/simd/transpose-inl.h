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
HWY_INLINE void Store4(VF4 v, BFloat16* to) {
  const hn::Full128<std::uint32_t> d32;
  const hn::Full64<std::uint16_t> d16;
  const auto bits = hn::ShiftRight<16>(RoundedBF16Bits(d32, hn::BitCast(d32, v)));
  hn::StoreU(hn::TruncateTo(d16, bits), d16, reinterpret_cast<std::uint16_t*>(to));
}
HWY_INLINE void Store1(float v, float* to) { *to = v; }
HWY_INLINE void Store1(float v, BFloat16* to) { *to = BFloat16::FromFloat(v); }

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

template <int kBlock, class T>
HWY_INLINE void StoreBlock(VF v, T* const* rows, Index column, int r, int count) {
  if (4 * kBlock + r < count) Store4(hn::ExtractBlock<kBlock>(v), rows[4 * kBlock + r] + column);
}

// rows[lane][c] = factor[lane] * from[c * stride + lane] for `count` rows; the inverse.
template <class T>
HWY_INLINE void TransposeOut(const float* from, Index stride, Index columns, VF factor,
                             T* const* rows, int count) {
  Index c = 0;
  for (; c + 4 <= columns; c += 4) {
    VF v[4];
    Unroll<4>([&](auto r)
                  HWY_ATTR { v[r] = hn::Mul(hn::LoadU(DF(), from + (c + r) * stride), factor); });
    Transpose4x4(v[0], v[1], v[2], v[3]);
    Unroll<4>([&](auto r) ATTNBENCH_INLINED {
      Unroll<kLanes / 4>([&](auto block) ATTNBENCH_INLINED { StoreBlock<block>(v[r], rows, c, r, count); });
    });
  }
  for (; c < columns; ++c) {
    HWY_ALIGN float column[kLanes];
    hn::Store(hn::Mul(hn::LoadU(DF(), from + c * stride), factor), DF(), column);
    for (int lane = 0; lane < count; ++lane) Store1(column[lane], rows[lane] + c);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
