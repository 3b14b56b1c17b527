// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/row_ops.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/row_ops.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/exp-inl.h"
#include "kernels/simd/tanh-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

[[maybe_unused]] constexpr hn::ScalableTag<float> df;
using VF = hn::Vec<decltype(df)>;
constexpr float kInf = std::numeric_limits<float>::infinity();

// Four keys at a time share each load of q; the sums across lanes are what remains.
void RowDots(const float* q, const float* k, Index row_stride, Index rows, Index head_dim,
             float scale, float* logits) {
  const Index lanes = hn::Lanes(df);
  Index j = 0;
  for (; j + 4 <= rows; j += 4) {
    const float* k0 = k + j * row_stride;
    VF s0 = hn::Zero(df), s1 = s0, s2 = s0, s3 = s0;
    for (Index c = 0; c < head_dim; c += lanes) {
      const Index n = std::min(lanes, head_dim - c);
      const VF x = hn::LoadN(df, q + c, n);
      s0 = hn::MulAdd(x, hn::LoadN(df, k0 + c, n), s0);
      s1 = hn::MulAdd(x, hn::LoadN(df, k0 + row_stride + c, n), s1);
      s2 = hn::MulAdd(x, hn::LoadN(df, k0 + 2 * row_stride + c, n), s2);
      s3 = hn::MulAdd(x, hn::LoadN(df, k0 + 3 * row_stride + c, n), s3);
    }
    logits[j] = scale * hn::ReduceSum(df, s0);
    logits[j + 1] = scale * hn::ReduceSum(df, s1);
    logits[j + 2] = scale * hn::ReduceSum(df, s2);
    logits[j + 3] = scale * hn::ReduceSum(df, s3);
  }
  for (; j < rows; ++j) {
    VF s = hn::Zero(df);
    for (Index c = 0; c < head_dim; c += lanes) {
      const Index n = std::min(lanes, head_dim - c);
      s = hn::MulAdd(hn::LoadN(df, q + c, n), hn::LoadN(df, k + j * row_stride + c, n), s);
    }
    logits[j] = scale * hn::ReduceSum(df, s);
  }
}

void AdditiveDots(const float* query, const float* keys, Index rows, Index hidden, const float* v,
                  float scale, float* logits) {
  const Index lanes = hn::Lanes(df);
  for (Index j = 0; j < rows; ++j) {
    VF sum = hn::Zero(df);
    for (Index h = 0; h < hidden; h += lanes) {
      const Index n = std::min(lanes, hidden - h);
      const VF x = hn::Add(hn::LoadN(df, query + h, n), hn::LoadN(df, keys + j * hidden + h, n));
      sum = hn::MulAdd(hn::LoadN(df, v + h, n), Tanh(df, x), sum);
    }
    logits[j] = scale * hn::ReduceSum(df, sum);
  }
}

SoftmaxRow ExpRow(float* logits, Index count) {
  const Index lanes = hn::Lanes(df);
  VF vmax = hn::Set(df, -kInf);
  Index j = 0;
  for (; j + lanes <= count; j += lanes) vmax = hn::Max(vmax, hn::LoadU(df, logits + j));
  if (j < count) vmax = hn::Max(vmax, hn::LoadNOr(hn::Set(df, -kInf), df, logits + j, count - j));
  const float max = hn::ReduceMax(df, vmax);

  // All -inf (or nothing at all): exp(x - 0) gives the zeros. A NaN that the maximum dropped
  // comes through the exponential.
  const VF shift = hn::Set(df, max == -kInf ? 0.0f : max);
  VF sum = hn::Zero(df);
  for (j = 0; j < count; j += lanes) {
    const Index n = std::min(lanes, count - j);
    const VF x = hn::Sub(hn::LoadNOr(hn::Set(df, -kInf), df, logits + j, n), shift);
    const VF e = Exp(df, x);
    hn::StoreN(e, df, logits + j, n);
    sum = hn::Add(sum, e);
  }
  return {max, hn::ReduceSum(df, sum)};
}

// Columns in panels of four vectors, so that the sums stay in registers over all rows.
void WeightedSum(const float* weights, const float* v, Index row_stride, Index rows, Index v_dim,
                 float factor, float* out) {
  const Index lanes = hn::Lanes(df);
  const VF f = hn::Set(df, factor);
  Index c = 0;
  for (; c + 4 * lanes <= v_dim; c += 4 * lanes) {
    VF o0 = hn::Zero(df), o1 = o0, o2 = o0, o3 = o0;
    for (Index j = 0; j < rows; ++j) {
      const VF w = hn::Set(df, weights[j]);
      const float* row = v + j * row_stride + c;
      o0 = hn::MulAdd(w, hn::LoadU(df, row), o0);
      o1 = hn::MulAdd(w, hn::LoadU(df, row + lanes), o1);
      o2 = hn::MulAdd(w, hn::LoadU(df, row + 2 * lanes), o2);
      o3 = hn::MulAdd(w, hn::LoadU(df, row + 3 * lanes), o3);
    }
    hn::StoreU(hn::Mul(o0, f), df, out + c);
    hn::StoreU(hn::Mul(o1, f), df, out + c + lanes);
    hn::StoreU(hn::Mul(o2, f), df, out + c + 2 * lanes);
    hn::StoreU(hn::Mul(o3, f), df, out + c + 3 * lanes);
  }
  for (; c < v_dim; c += lanes) {
    const Index n = std::min(lanes, v_dim - c);
    VF o = hn::Zero(df);
    for (Index j = 0; j < rows; ++j)
      o = hn::MulAdd(hn::Set(df, weights[j]), hn::LoadN(df, v + j * row_stride + c, n), o);
    hn::StoreN(hn::Mul(o, f), df, out + c, n);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {

HWY_EXPORT(RowDots);
HWY_EXPORT(AdditiveDots);
HWY_EXPORT(ExpRow);
HWY_EXPORT(WeightedSum);

void RowDots(const float* q, const float* k, Index row_stride, Index rows, Index head_dim,
             float scale, float* logits) {
  HWY_DYNAMIC_DISPATCH(RowDots)(q, k, row_stride, rows, head_dim, scale, logits);
}
void AdditiveDots(const float* query, const float* keys, Index rows, Index hidden, const float* v,
                  float scale, float* logits) {
  HWY_DYNAMIC_DISPATCH(AdditiveDots)(query, keys, rows, hidden, v, scale, logits);
}
SoftmaxRow ExpRow(float* logits, Index count) {
  return HWY_DYNAMIC_DISPATCH(ExpRow)(logits, count);
}
void WeightedSum(const float* weights, const float* v, Index row_stride, Index rows, Index v_dim,
                 float factor, float* out) {
  HWY_DYNAMIC_DISPATCH(WeightedSum)(weights, v, row_stride, rows, v_dim, factor, out);
}

}  // namespace attnbench
#endif
