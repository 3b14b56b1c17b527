// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/row_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/simd/row_ops.h"

namespace attnbench {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

double Center(const Problem& p, const Inputs& in, Index b, Index h, Index i) {
  return in.centers[(b * p.heads + h) * p.queries + i];
}

bool AdmitsAround(double center, const Problem& p, Index i, Index j) {
  const Index position = p.KeyPosition(j);
  if (p.mask.causal && position > p.QueryPosition(i)) return false;
  return position < p.mask.sinks || std::abs(position - center) <= p.mask.window;
}

}  // namespace

KeyRange ReachableKeys(const Problem& p, const Inputs& in, Index batch, Index query) {
  KeyRange range = {0, in.key_lengths ? in.key_lengths[batch] : p.keys};
  if (!p.HasClosedForm()) return range;
  const AdmittedKeys admitted = p.Admitted(query, range.end);
  range.end = admitted.limit;
  if (p.mask.pattern == Mask::Pattern::kLocal && admitted.sinks == 0 && !in.centers)
    range = {admitted.band_begin, admitted.band_end};
  return range;
}

void FinishRow(const Problem& p, const Inputs& in, const Output& out, Index b, Index h, Index i,
               KeyRange range, float* logits) {
  const Index count = range.size();
  const double center = in.centers ? Center(p, in, b, h, i) : 0;
  if (in.centers) {
    for (Index j = 0; j < count; ++j)
      if (!AdmitsAround(center, p, i, range.begin + j)) logits[j] = -kInf;
  } else if (p.mask.causal || p.mask.pattern != Mask::Pattern::kFull) {
    for (Index j = 0; j < count; ++j)
      if (!p.Admits(i, range.begin + j)) logits[j] = -kInf;
  }
  const SoftmaxRow softmax = ExpRow(logits, count);
  const float normaliser = softmax.sum == 0 ? 0 : 1 / softmax.sum;
  if (out.lse) out.lse[(b * p.heads + h) * p.queries + i] = softmax.max + std::log(softmax.sum);
  if (out.weights) {
    float* weights = out.weights.Row<float>(b, h, i);
    std::fill_n(weights, p.keys, 0.0f);
    for (Index j = 0; j < count; ++j) weights[range.begin + j] = logits[j] * normaliser;
  }
  if (in.centers) {
    const double sigma = p.mask.window / 2.0;
    for (Index j = 0; j < count; ++j) {
      const double distance = static_cast<double>(p.KeyPosition(range.begin + j)) - center;
      logits[j] *= static_cast<float>(std::exp(-distance * distance / (2 * sigma * sigma)));
    }
  }
  WeightedSum(logits, in.v.Row<float>(b, p.KvHead(h), range.begin), in.v.row_stride, count, p.v_dim,
              normaliser, out.out.Row<float>(b, h, i));
}

Cost RowwiseCost(const Problem& p, const Options&) {
  double pairs = 0;
  for (Index i = 0; i < p.queries; ++i) pairs += ReachableKeys(p, {}, 0, i).size();
  pairs *= static_cast<double>(p.batch) * p.heads;
  const Cost useful = p.Useful();
  const double admitted = p.AdmittedPairs();
  const double waste = pairs - admitted;
  const bool additive = p.score == Score::kAdditive || p.score == Score::kConcat;
  const double flops_per_pair = (additive ? 3.0 * p.hidden : 2.0 * p.head_dim) + 2.0 * p.v_dim;
  const double exps_per_pair = additive ? 1.0 + p.hidden : 1.0;
  return {useful.flops + waste * flops_per_pair, useful.exps + waste * exps_per_pair, useful.bytes};
}

}  // namespace attnbench
