// SPDX-License-Identifier: Apache-2.0
// naive: the textbook. Three plain loops: all scores of every batch and head into memory, a softmax
// over each row, weights times values. O(B H n^2) memory on purpose: this is the kernel that
// "becomes prohibitive for n > 10,000", and the baseline that honest speed-ups are measured from.
// Serves any mask by the predicate, computing the masked pairs' scores all the same.
//
// Paper: Vaswani et al. 2017, eq. 1. Cost: 2 n^2 (d + d_v) flops and 4 n^2 bytes a head.
#include <cmath>
#include <limits>

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  float* scores = reinterpret_cast<float*>(context.workspace);
  const Index rows = p.batch * p.heads * p.queries;
  const float scale = static_cast<float>(p.scale), softcap = static_cast<float>(p.softcap);

#pragma omp parallel for schedule(static) num_threads(context.threads)
  for (Index r = 0; r < rows; ++r) {
    const Index b = r / (p.heads * p.queries), h = r / p.queries % p.heads, i = r % p.queries;
    const Index limit = in.key_lengths ? in.key_lengths[b] : p.keys;
    const float* q = in.q.Row<float>(b, h, i);
    float* row = scores + r * p.keys;

    for (Index j = 0; j < limit; ++j) {
      const float* k = in.k.Row<float>(b, p.KvHead(h), j);
      float sum = 0;
      for (Index c = 0; c < p.head_dim; ++c) sum += q[c] * k[c];
      row[j] = scale * sum;
      if (softcap > 0) row[j] = softcap * std::tanh(row[j] / softcap);
      if (in.bias) row[j] += in.bias.Row<float>(b, h, i)[j];
    }

    float max = -kInf;
    bool nan = false;
    for (Index j = 0; j < limit; ++j) {
      if (!p.Admits(i, j)) row[j] = -kInf;
      nan |= std::isnan(row[j]);
      max = std::max(max, row[j]);
    }
    float* o = out.out.Row<float>(b, h, i);
    std::fill_n(o, p.v_dim, 0.0f);
    float sum = 0;
    const bool empty = max == -kInf && !nan;
    for (Index j = 0; j < limit; ++j) {
      row[j] = empty || !p.Admits(i, j) ? 0.0f : std::exp(row[j] - max);
      sum += row[j];
    }
    for (Index j = 0; j < limit && !empty; ++j) {
      if (!p.Admits(i, j)) continue;
      row[j] /= sum;
      const float* v = in.v.Row<float>(b, p.KvHead(h), j);
      for (Index c = 0; c < p.v_dim; ++c) o[c] += row[j] * v[c];
    }
    if (out.lse) out.lse[r] = empty ? -kInf : max + std::log(sum);
    if (out.weights)
      for (Index j = 0; j < p.keys; ++j)
        out.weights.Row<float>(b, h, i)[j] = j < limit ? row[j] : 0.0f;
  }
}

Cost Executed(const Problem& p, const Options&) {
  const double pairs = static_cast<double>(p.batch) * p.heads * p.queries * p.keys;
  const double admitted = p.AdmittedPairs();
  Cost cost = p.Useful();
  cost.flops = 2.0 * p.head_dim * pairs + 2.0 * p.v_dim * admitted;
  cost.exps = admitted;
  cost.bytes += 4 * 4.0 * pairs;  // scores: written, read for the max, rewritten, read for P V
  return cost;
}

std::size_t Workspace(const Problem& p, const Options&, int) {
  return sizeof(float) * static_cast<std::size_t>(p.batch * p.heads * p.queries) *
         static_cast<std::size_t>(p.keys);
}

std::string Refuse(const Problem& p, const Options&) {
  return Unserved(p, {.bias = true, .key_lengths = true, .softcap = true});
}

ATTN_KERNEL(.name = "naive", .idea = "textbook loops, all n^2 scores in memory",
            .provides = kLse | kWeights, .refuse = Refuse, .executed = Executed,
            .workspace = Workspace, .run = Run);

}  // namespace
}  // namespace attnbench
