// SPDX-License-Identifier: Apache-2.0
// 2^x for the softmax of tiles: x at most about 2^7, everything under -120 gives (nearly) nothing,
// NaN stays NaN (but see the engine's own check: a NaN whose low payload bits are set may not).
// Rounds by adding a magic number, a minimax polynomial of what is left, the exponent by an integer
// add. Two forms:
// - Plain: rounds to whole numbers. Relative error by degree 3: 7.5e-5, 5: 5.6e-8.
// - By a table, where 16 lanes hold it: rounds to sixteenths, whose powers one permutation looks
//   up. Degree 1: 1.2e-4, 2: 4.2e-7, 3: 1e-8, 2.5e-8 common to all. The polynomial is factored so
//   that additions take the place of multiplications.
//
// On Zen 4 only multiplications (and multiply-adds) cost: additions, shifts, integer adds, the
// maximum and a permutation of one source issue beside one 512-bit multiply-add a cycle, as long as
// they are at most half as many; one of two sources, vcmpps, vscalefps and vreduceps take the
// multiply-add's place (measured 1.0 each), so no 32 entries, no scalef and no compare here.
// Plain 3 or 5 multiplications; by the table 1 or 3.

#if defined(ATTNBENCH_KERNELS_SIMD_EXP2_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_EXP2_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_EXP2_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_EXP2_INL_H_
#endif

#include <array>
#include <bit>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

// Forms are degrees, of the polynomial beside a table with this on top.
constexpr int kByTable = 16;

template <int kDegree>
struct Exp2Coefficients;
template <>
struct Exp2Coefficients<3> {
  static constexpr float kC[] = {0.999928057f, 0.693260968f, 0.242611125f, 0.0551716685f};
};
template <>
struct Exp2Coefficients<5> {
  static constexpr float kC[] = {1.00000012f,   0.693146944f,   0.240221202f,
                                 0.0555071309f, 0.00967554096f, 0.00132764725f};
};

// To be cut to bf16, the result is made sqrt(2) 2^x: the plain polynomial then lies in [1, 2],
// where half a unit of bf16 is one number, and adding it there rounds to nearest at no cost.
constexpr double kExp2RootTwo = 1.41421356f;

template <int kDegree, bool kForBF16>
constexpr auto kExp2 = [] {
  std::array<float, kDegree + 1> c;
  for (int i = 0; i <= kDegree; ++i) {
    c[i] = Exp2Coefficients<kDegree>::kC[i];
    if (kForBF16) c[i] = static_cast<float>(c[i] * kExp2RootTwo + (i == 0 ? 1.0 / 256 : 0));
  }
  return c;
}();

template <int kDegree, bool kForBF16, class D, class V>
HWY_INLINE V PlainExp2(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToSigned<D> di;
  constexpr auto& kC = kExp2<kDegree, kForBF16>;
  const V magic = hn::Set(d, 12582912.0f);
  x = hn::Max(hn::Set(d, -120.0f), x);  // this order: x86 returns the second operand if one is NaN
  const V biased = hn::Add(x, magic);
  const V r = hn::Sub(x, hn::Sub(biased, magic));
  V p = hn::MulAdd(hn::Set(d, kC[kDegree]), r, hn::Set(d, kC[kDegree - 1]));
  p = hn::MulAdd(p, r, hn::Set(d, kC[kDegree - 2]));
  p = hn::MulAdd(p, r, hn::Set(d, kC[kDegree - 3]));
  if constexpr (kDegree >= 5) {
    p = hn::MulAdd(p, r, hn::Set(d, kC[kDegree - 4]));
    p = hn::MulAdd(p, r, hn::Set(d, kC[kDegree - 5]));
  }
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, biased))));
}

#if HWY_TARGET <= HWY_AVX3
// 2^r for |r| <= 1/32 is kLead times
//   degree 1: r + kA    2: (r + kA)^2 + kB    3: ((r + kA)^2 + kB) (r + kC) + kD.
template <int kDegree>
struct Sixteenth;
template <>
struct Sixteenth<1> {
  static constexpr double kLead = 0.69312008, kA = 1.00011728 / kLead;
};
template <>
struct Sixteenth<2> {
  static constexpr double kLead = 0.24022443, kA = 0.69318791 / kLead / 2;
  static constexpr double kB = 1.0 / kLead - kA * kA;
};
template <>
struct Sixteenth<3> {
  static constexpr double kLead = 0.05520517;
  // k0: 2^0 is 1 to the last bit, so that the output of a single key is its value.
  static constexpr double k2 = 0.24022653 / kLead, k1 = 0.69314718 / kLead,
                          k0 = 1.000000025 / kLead;
  static constexpr double kC = k2 / 3, kA = (k2 - kC) / 2;
  static constexpr double kB = k1 - kA * (kA + 2 * kC), kD = k0 - (kA * kA + kB) * kC;
};

// factor * kLead * 2^(i/16), less what the integer add of i / 16 puts into the bits below the
// exponent.
template <int kDegree, bool kForBF16>
alignas(64) constexpr auto kSixteenths = [] {
  constexpr double kPowers[] = {1.0,
                                1.0442737824274138,
                                1.0905077326652577,
                                1.1387886347566916,
                                1.189207115002721,
                                1.241857812073484,
                                1.2968395546510096,
                                1.3542555469368927,
                                1.4142135623730951,
                                1.4768261459394993,
                                1.5422108254079407,
                                1.6104903319492543,
                                1.681792830507429,
                                1.7562521603732995,
                                1.8340080864093424,
                                1.9152065613971474};
  constexpr double kFactor = Sixteenth<kDegree>::kLead * (kForBF16 ? kExp2RootTwo : 1.0);
  std::array<std::int32_t, 16> bits{};
  for (int i = 0; i < 16; ++i)
    bits[i] = std::bit_cast<std::int32_t>(static_cast<float>(kFactor * kPowers[i])) - (i << 19);
  return bits;
}();

template <int kDegree, bool kForBF16, class D, class V>
HWY_INLINE V TableExp2(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  using C = Sixteenth<kDegree>;
  const hn::RebindToSigned<D> di;
  const V magic = hn::Set(d, 786432.0f);  // 1.5 * 2^19
  x = hn::Max(hn::Set(d, -120.0f), x);
  const V biased = hn::Add(x, magic);
  const V r = hn::Sub(x, hn::Sub(biased, magic));
  const auto n = hn::BitCast(di, biased);
  // The permutation reads the lowest four bits alone.
  const auto table = hn::Load(di, kSixteenths<kDegree, kForBF16>.data());
  const auto power = hn::TableLookupLanes(table, hn::Indices512<std::int32_t>{n.raw});
  const V s = hn::BitCast(d, hn::Add(power, hn::ShiftLeft<19>(n)));
  const auto constant = [&](double c) HWY_ATTR { return hn::Set(d, static_cast<float>(c)); };
  const V y = hn::Add(r, constant(C::kA));
  if constexpr (kDegree == 1) {
    return hn::Mul(s, y);
  } else {
    const V square = hn::MulAdd(y, y, constant(C::kB));
    if constexpr (kDegree == 2)
      return hn::Mul(s, square);
    else
      return hn::Mul(s, hn::MulAdd(square, hn::Add(r, constant(C::kC)), constant(C::kD)));
  }
}
constexpr bool kHasExpTable = true;
#else
constexpr bool kHasExpTable = false;
#endif

// 2^x; to be cut to bf16 sqrt(2) 2^x, rounded half up.
template <int kForm, bool kForBF16 = false, class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE V Exp2(D d, V x) {
  if constexpr (kForm < kByTable) {
    return PlainExp2<kForm, kForBF16>(d, x);
#if HWY_TARGET <= HWY_AVX3
  } else {
    namespace hn = hwy::HWY_NAMESPACE;
    const V y = TableExp2<kForm - kByTable, kForBF16>(d, x);
    if constexpr (!kForBF16) return y;
    const hn::RebindToSigned<D> di;
    return hn::BitCast(d, hn::Add(hn::BitCast(di, y), hn::Set(di, 0x8000)));
#endif
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
