// SPDX-License-Identifier: Apache-2.0
// tanh(x) and 1 / (1 + exp(-x)), float32, for every x: what additive scores and the gates of
// recurrent cells need. Errors of a few units in the last place; NaN stays NaN.

// Per-target include guard.
#if defined(ATTNBENCH_KERNELS_SIMD_TANH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_TANH_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_TANH_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_TANH_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/simd/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

// x + x^3 P(x^2) near 0 (Cephes' single-precision polynomial), else from exp(-2|x|).
template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> Tanh(D d, hwy::HWY_NAMESPACE::Vec<D> x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const auto magnitude = hn::Abs(x), one = hn::Set(d, 1.0f);
  const auto square = hn::Mul(x, x);
  auto p = hn::Set(d, -5.70498872745e-3f);
  p = hn::MulAdd(p, square, hn::Set(d, 2.06390887954e-2f));
  p = hn::MulAdd(p, square, hn::Set(d, -5.37397155531e-2f));
  p = hn::MulAdd(p, square, hn::Set(d, 1.33314422036e-1f));
  p = hn::MulAdd(p, square, hn::Set(d, -3.33332819422e-1f));
  const auto near_zero = hn::MulAdd(hn::Mul(p, square), x, x);
  const auto e = Exp(d, hn::Mul(magnitude, hn::Set(d, -2.0f)));
  const auto far = hn::CopySign(hn::Div(hn::Sub(one, e), hn::Add(one, e)), x);
  return hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 0.625f)), near_zero, far);
}

template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> Sigmoid(D d, hwy::HWY_NAMESPACE::Vec<D> x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const auto one = hn::Set(d, 1.0f);
  const auto e = Exp(d, hn::Neg(hn::Abs(x)));
  return hn::Div(hn::IfThenElse(hn::IsNegative(x), e, one), hn::Add(one, e));
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
