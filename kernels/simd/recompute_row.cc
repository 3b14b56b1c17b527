// SPDX-License-Identifier: Apache-2.0
// The engine's way out for rows that are not finite (NaN or Inf in an input, sums beyond float32):
// the definition in double, scalar, allocating nothing. Two passes over the keys for each panel of
// columns: slow, and rare.
#include <cmath>

#include "kernels/simd/attend.h"

namespace attnbench {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

double Logit(const Problem& p, const Inputs& in, Index b, Index h, Index i, Index j) {
  double sum = 0;
  for (Index c = 0; c < p.head_dim; ++c) sum += in.q.At(b, h, i, c) * in.k.At(b, p.KvHead(h), j, c);
  sum *= p.scale;
  if (p.softcap > 0) sum = p.softcap * std::tanh(sum / p.softcap);
  return in.bias ? sum + in.bias.At(b, h, i, j) : sum;
}

}  // namespace

void RecomputeRow(const Problem& p, const Inputs& in, const Output& out, Index b, Index h,
                  Index i) {
  const Index limit = in.key_lengths ? in.key_lengths[b] : p.keys;
  double max = -kInf;
  bool nan = false;
  for (Index j = 0; j < limit; ++j) {
    if (!p.Admits(i, j)) continue;
    const double logit = Logit(p, in, b, h, i, j);
    nan |= std::isnan(logit);
    max = std::max(max, logit);
  }
  const bool empty = max == -kInf && !nan;
  double sum = 0;
  constexpr Index kPanel = 64;
  for (Index c0 = 0; c0 < p.v_dim; c0 += kPanel) {
    const Index columns = std::min(kPanel, p.v_dim - c0);
    double panel[kPanel] = {};
    sum = 0;
    for (Index j = 0; j < limit && !empty; ++j) {
      if (!p.Admits(i, j)) continue;
      const double weight = std::exp(Logit(p, in, b, h, i, j) - max);
      sum += weight;
      for (Index c = 0; c < columns; ++c) panel[c] += weight * in.v.At(b, p.KvHead(h), j, c0 + c);
    }
    for (Index c = 0; c < columns; ++c) out.out.Set(b, h, i, c0 + c, empty ? 0.0 : panel[c] / sum);
  }
  if (out.lse)
    out.lse[(b * p.heads + h) * p.queries + i] =
        static_cast<float>(empty ? -kInf : max + std::log(sum));
}

}  // namespace attnbench
