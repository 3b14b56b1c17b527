// SPDX-License-Identifier: Apache-2.0
// reference: the float64 oracle. Slow and obvious: one row at a time, two passes, no tricks; any
// mask, any score; gives log-sum-exp and weights too. Every other kernel is judged by it.
//
// Papers: Vaswani et al. 2017 eq. 1; Luong et al. 2015 eqs. 7-10; Bahdanau et al. 2014 A.1.2.
// Cost: O(B H n^2 d) time with a large constant, O(n) memory a thread.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/contract/oracle.h"

namespace attnbench {
namespace {

// v.tanh(W x + U y) for the row vectors x, y; concat's W [hidden, 2d] is [W | U] side by side.
template <class Real>
Real AdditiveScore(const Problem& p, const float* w, Index w_stride, const float* u, Index u_stride,
                   const float* v, const std::vector<Real>& q, const std::vector<Real>& k) {
  Real sum = 0;
  for (Index h = 0; h < p.hidden; ++h) {
    Real a = 0;
    for (Index c = 0; c < p.head_dim; ++c)
      a += Real(w[h * w_stride + c]) * q[c] + Real(u[h * u_stride + c]) * k[c];
    sum += Real(v[h]) * std::tanh(a);
  }
  return sum;
}

template <class Real>
Real ScoreOf(const Problem& p, const ScoreWeights& s, const std::vector<Real>& q,
             const std::vector<Real>& k, Index key) {
  const Index d = p.head_dim;
  Real sum = 0;
  switch (p.score) {
    case Score::kScaledDot:
    case Score::kDot:
#pragma omp simd reduction(+ : sum)
      for (Index c = 0; c < d; ++c) sum += q[c] * k[c];
      return sum;
    case Score::kGeneral:
      for (Index r = 0; r < d; ++r) {
        Real wk = 0;
        for (Index c = 0; c < d; ++c) wk += Real(s.w[r * d + c]) * k[c];
        sum += q[r] * wk;
      }
      return sum;
    case Score::kConcat:
      return AdditiveScore(p, s.w, 2 * d, s.w + d, 2 * d, s.v, q, k);
    case Score::kAdditive:
      return AdditiveScore(p, s.w, d, s.u, d, s.v, q, k);
    case Score::kLocation:
      for (Index c = 0; c < d; ++c) sum += Real(s.w[key * d + c]) * q[c];
      return sum;
  }
  return sum;
}

// Per row, not per element: the check before every timing spends its time here.
template <class Real>
void Load(const ConstTensor& t, Index batch, Index head, Index row, std::vector<Real>* x) {
  const auto copy = [&](const auto* from) {
    for (std::size_t c = 0; c < x->size(); ++c) (*x)[c] = Real(ToFloat(from[c]));
  };
  if (t.dtype == DType::kF64)  // what a layer's own float64 evaluation hands over
    std::copy_n(t.Row<double>(batch, head, row), x->size(), x->begin());
  else if (t.dtype == DType::kBF16)
    copy(t.Row<BFloat16>(batch, head, row));
  else
    copy(t.Row<float>(batch, head, row));
}

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const Index rows = p.batch * p.heads * p.queries;
#pragma omp parallel num_threads(context.threads)
  {
    OracleRow<double> row;
#pragma omp for schedule(static)
    for (Index r = 0; r < rows; ++r) {
      const Index b = r / (p.heads * p.queries), h = r / p.queries % p.heads, i = r % p.queries;
      EvaluateRow(p, in, b, h, i, &row);
      for (Index c = 0; c < p.v_dim; ++c) out.out.Set(b, h, i, c, row.out[c]);
      if (out.lse) out.lse[r] = static_cast<float>(row.lse);
      if (out.weights)
        for (Index j = 0; j < p.keys; ++j) out.weights.Set(b, h, i, j, row.weights[j]);
    }
  }
}

}  // namespace

template <class Real>
void EvaluateRow(const Problem& p, const Inputs& in, Index b, Index h, Index i,
                 OracleRow<Real>* row) {
  constexpr Real kInf = std::numeric_limits<Real>::infinity();
  const bool round_bf16 = p.dtype == DType::kBF16 && std::is_same_v<Real, float>;
  const auto rounded = [&](Real x) {
    return round_bf16 ? Real(BFloat16::FromFloat(static_cast<float>(x)).ToFloat()) : x;
  };
  const Index g = p.KvHead(h);
  const Index limit = in.key_lengths ? in.key_lengths[b] : p.keys;
  const double center = in.centers ? in.centers[(b * p.heads + h) * p.queries + i] : 0.0;
  const auto admits = [&](Index j) {
    if (!in.centers) return p.Admits(i, j);
    const double position = static_cast<double>(p.KeyPosition(j));
    if (p.mask.causal && p.KeyPosition(j) > p.QueryPosition(i)) return false;
    return p.KeyPosition(j) < p.mask.sinks || std::abs(position - center) <= p.mask.window;
  };

  std::vector<Real> q(p.head_dim), k(p.head_dim), v(p.v_dim);
  Load(in.q, b, h, i, &q);
  std::vector<Index> admitted;
  std::vector<Real>& logits = row->weights;  // logits first, weights in the end
  logits.assign(p.keys, 0);
  row->out.assign(p.v_dim, 0);
  row->max_abs_logit = 0;
  Real max = -kInf;
  bool nan = false;
  for (Index j = 0; j < limit; ++j) {
    if (!admits(j)) continue;
    Load(in.k, b, g, j, &k);
    Real logit = Real(p.scale) * ScoreOf(p, in.score, q, k, j);
    if (p.softcap > 0) logit = Real(p.softcap) * std::tanh(logit / Real(p.softcap));
    if (in.bias) logit += Real(in.bias.At(b, h, i, j));
    admitted.push_back(j);
    logits[j] = logit;
    nan |= std::isnan(logit);
    max = std::max(max, logit);
    if (std::isfinite(logit))
      row->max_abs_logit = std::max(row->max_abs_logit, std::abs(static_cast<double>(logit)));
  }
  // Summands that cancel leave their rounding behind: a logit counts as no smaller than their root
  // sum of squares, which is about the same for all keys.
  if (!admitted.empty() && (p.score == Score::kScaledDot || p.score == Score::kDot)) {
    Load(in.k, b, g, admitted.front(), &k);
    double squares = 0;
    for (Index c = 0; c < p.head_dim; ++c)
      squares += static_cast<double>(q[c]) * q[c] * k[c] * k[c];
    const double summands = std::abs(p.scale) * std::sqrt(squares);
    if (std::isfinite(summands)) row->max_abs_logit = std::max(row->max_abs_logit, summands);
  }
  if (max == -kInf && !nan) {  // nothing admitted, or all logits -inf
    for (Index j : admitted) logits[j] = 0;
    row->lse = -kInf;
    return;
  }
  Real sum = 0;
  for (Index j : admitted) sum += logits[j] = rounded(std::exp(logits[j] - max));
  for (Index j : admitted) {
    Real weight = logits[j];
    if (in.centers) {
      const double distance = static_cast<double>(p.KeyPosition(j)) - center;
      const double sigma = p.mask.window / 2.0;
      weight *= Real(std::exp(-distance * distance / (2 * sigma * sigma)));
    }
    Load(in.v, b, g, j, &v);
    for (Index c = 0; c < p.v_dim; ++c) row->out[c] += weight * v[c];
    logits[j] = weight / sum;
  }
  for (Index c = 0; c < p.v_dim; ++c) {
    row->out[c] /= sum;
    if (std::is_same_v<Real, float> && p.out_dtype == DType::kBF16)
      row->out[c] = rounded(row->out[c]);
  }
  row->lse = max + std::log(sum);
}

template void EvaluateRow(const Problem&, const Inputs&, Index, Index, Index, OracleRow<double>*);
template void EvaluateRow(const Problem&, const Inputs&, Index, Index, Index, OracleRow<float>*);

ATTN_KERNEL(
        .name = "reference", .idea = "float64 oracle: every mask, every score, row by row",
        .provides = kLse | kWeights,
        .refuse = [](const Problem& p,
                     const Options&) { return std::string(p.layer ? "d_model is a layer's" : ""); },
        .run = Run);

}  // namespace attnbench
