// SPDX-License-Identifier: Apache-2.0
// exp(x) for x <= 0, as softmax needs it: float32, relative error about 2e-7; -inf and everything
// under -87.3 gives 0 (no denormals), NaN stays NaN. Cody-Waite reduction by ln 2 in two parts, a
// polynomial of degree 6 on [-ln2/2, ln2/2], the exponent put in by an integer add.

// Per-target include guard.
#if defined(ATTNBENCH_KERNELS_SIMD_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_EXP_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_EXP_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_EXP_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> Exp(D d, hwy::HWY_NAMESPACE::Vec<D> x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToSigned<D> di;
  const auto magic = hn::Set(d, 12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const auto biased = hn::MulAdd(x, hn::Set(d, 1.44269504f), magic);
  const auto n = hn::Sub(biased, magic);
  auto r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  // Coefficients: minimax on [-ln2/2, ln2/2] close to Taylor's; tests hold the error.
  auto p = hn::Set(d, 1.0f / 720);
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 120));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 24));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 6));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, biased));
  const auto e = hn::BitCast(d, hn::Add(hn::BitCast(di, p), exponent));
  const auto flushed = hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -87.3f)), e);
  return hn::IfThenElse(hn::IsNaN(x), x, flushed);
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
