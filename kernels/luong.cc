// SPDX-License-Identifier: Apache-2.0
// luong: global attention of an encoder-decoder with the dot score, a decoder state at a time, as a
// decoder that generates word by word has to compute it. Its three equations are its three calls:
//
//   e_ij = s_i . h_j       alpha_i = softmax(e_i)       c_i = sum_j alpha_ij h_j
//
// Queries are the decoder's states s, keys and values both the encoder's states h (they may be one
// tensor: v aliases k). Not scaled by 1/sqrt(d), which is what sets it apart from self-attention's
// arithmetic; what sets it apart in use is that s and h come from two sequences.
//
// Paper: Luong, Pham, Manning 2015, "Effective Approaches to Attention-based Neural Machine
// Translation", eqs. 7-8. Local-m (a window around step t) is the pattern `local` with
// query_origin 0; other masks are served by the predicate.
// Cost: 4 d flops a pair; h is read twice a step, so long encoders are bound by the cache they fit
// in. Memory: one row of scores a thread.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/contract/kernel.h"
#include "kernels/simd/row_ops.h"
#include "kernels/simd/target.h"

namespace attnbench {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const Index steps = p.batch * p.heads * p.queries;
  const bool masked = p.mask.causal || p.mask.pattern != Mask::Pattern::kFull;
#pragma omp parallel num_threads(context.threads)
  {
    float* alpha = reinterpret_cast<float*>(context.workspace) + omp_get_thread_num() * p.keys;
#pragma omp for schedule(static)
    for (Index step = 0; step < steps; ++step) {
      const Index b = step / (p.heads * p.queries), head = step / p.queries % p.heads;
      const Index i = step % p.queries, g = p.KvHead(head);
      Index begin = 0, end = in.key_lengths ? in.key_lengths[b] : p.keys;
      if (p.HasClosedForm()) {  // skip what lies outside the window or after a causal query
        const AdmittedKeys admitted = p.Admitted(i, end);
        end = admitted.limit;
        if (p.mask.pattern == Mask::Pattern::kLocal && admitted.sinks == 0)
          begin = admitted.band_begin, end = admitted.band_end;
      }
      const Index count = std::max<Index>(0, end - begin);

      RowDots(in.q.Row<float>(b, head, i), in.k.Row<float>(b, g, begin), in.k.row_stride, count,
              p.head_dim, static_cast<float>(p.scale), alpha);
      if (masked)
        for (Index j = 0; j < count; ++j)
          if (!p.Admits(i, begin + j)) alpha[j] = -kInf;
      const SoftmaxRow softmax = ExpRow(alpha, count);
      const float normaliser = softmax.sum == 0 ? 0 : 1 / softmax.sum;
      WeightedSum(alpha, in.v.Row<float>(b, g, begin), in.v.row_stride, count, p.v_dim, normaliser,
                  out.out.Row<float>(b, head, i));

      if (out.lse) out.lse[step] = softmax.max + std::log(softmax.sum);
      if (out.weights) {
        float* weights = out.weights.Row<float>(b, head, i);
        std::fill_n(weights, p.keys, 0.0f);
        for (Index j = 0; j < count; ++j) weights[begin + j] = alpha[j] * normaliser;
      }
    }
  }
}

Cost Executed(const Problem& p, const Options&) {
  Cost cost = p.Useful();
  const double pairs =
      p.mask.pattern == Mask::Pattern::kFull || p.mask.pattern == Mask::Pattern::kLocal
          ? p.AdmittedPairs()
          : static_cast<double>(p.batch) * p.heads * p.queries * p.keys;
  cost.flops = 2.0 * (p.head_dim + p.v_dim) * pairs;
  cost.exps = pairs;
  return cost;
}

std::size_t Workspace(const Problem& p, const Options&, int threads) {
  return sizeof(float) * static_cast<std::size_t>(p.keys) * threads;
}

std::string Refuse(const Problem& p, const Options&) {
  return Unserved(p, {.scores = {Score::kDot}, .key_lengths = true});
}

ATTN_KERNEL(.name = "luong", .idea = "Luong's dot score, one decoder state at a time",
            .provides = kLse | kWeights, .refuse = Refuse, .executed = Executed,
            .workspace = Workspace, .run = Run, .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
