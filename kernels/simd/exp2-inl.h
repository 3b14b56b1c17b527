// SPDX-License-Identifier: Apache-2.0
// 2^x for the softmax of tiles: x at most about 2^7, everything under -126 gives (nearly) nothing,
// NaN stays NaN (but see the engine's own check: a NaN whose low payload bits are set may not).
// Rounds by adding 1.5 * 2^23, a minimax polynomial on [-1/2, 1/2], the exponent by an integer add.
//
// Relative error of the polynomial: degree 3: 7.5e-5, 4: 2.6e-6, 5: 7.5e-8. On Zen 4 only its
// multiply-adds cost: additions, shifts, the maximum issue beside one 512-bit FMA a cycle, but
// vcmpps, vscalefps and vreduceps take the FMA's place (measured 1.0 each), so no
// scalef and no compare here.

#if defined(ATTNBENCH_KERNELS_SIMD_EXP2_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_EXP2_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_EXP2_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_EXP2_INL_H_
#endif

#include <array>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

template <int kDegree>
struct Exp2Coefficients;
template <>
struct Exp2Coefficients<3> {
  static constexpr float kC[] = {0.999928057f, 0.693260968f, 0.242611125f, 0.0551716685f};
};
template <>
struct Exp2Coefficients<4> {
  static constexpr float kC[] = {0.999999285f, 0.693121791f, 0.240247443f, 0.0559178591f,
                                 0.00957010221f};
};
template <>
struct Exp2Coefficients<5> {
  static constexpr float kC[] = {1.00000012f,   0.693146944f,   0.240221202f,
                                 0.0555071309f, 0.00967554096f, 0.00132764725f};
};

// To be cut to bf16, the result is made sqrt(2) 2^x: the polynomial then lies in [1, 2], where half
// a unit of bf16 is one number, and adding it there rounds to nearest at no cost.
constexpr float kExp2RootTwo = 1.41421356f;

template <int kDegree, bool kForBF16>
constexpr auto kExp2 = [] {
  std::array<float, kDegree + 1> c;
  for (int i = 0; i <= kDegree; ++i) {
    c[i] = Exp2Coefficients<kDegree>::kC[i];
    if (kForBF16) c[i] = c[i] * kExp2RootTwo + (i == 0 ? 1.0f / 256 : 0.0f);
  }
  return c;
}();

template <int kDegree, bool kForBF16 = false, class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE V Exp2(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToSigned<D> di;
  constexpr auto& kC = kExp2<kDegree, kForBF16>;
  const V magic = hn::Set(d, 12582912.0f);
  x = hn::Max(hn::Set(d, -126.0f), x);  // this order: x86 returns the second operand if one is NaN
  const V biased = hn::Add(x, magic);
  const V r = hn::Sub(x, hn::Sub(biased, magic));
  V p = hn::MulAdd(hn::Set(d, kC[kDegree]), r, hn::Set(d, kC[kDegree - 1]));
  p = hn::MulAdd(p, r, hn::Set(d, kC[kDegree - 2]));
  p = hn::MulAdd(p, r, hn::Set(d, kC[kDegree - 3]));
  if constexpr (kDegree >= 4) p = hn::MulAdd(p, r, hn::Set(d, kC[kDegree - 4]));
  if constexpr (kDegree >= 5) p = hn::MulAdd(p, r, hn::Set(d, kC[kDegree - 5]));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, biased))));
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
