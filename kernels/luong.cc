// SPDX-License-Identifier: Apache-2.0
// luong: attention of an encoder-decoder, a decoder state at a time, as a decoder that generates
// word by word has to compute it. The dot score's three equations are the three steps below:
//
//   e_ij = s_i . h_j       alpha_i = softmax(e_i)       c_i = sum_j alpha_ij h_j
//
// Queries are the decoder's states s, keys and values both the encoder's states h (they may be one
// tensor: v aliases k). Nothing is scaled by 1/sqrt(d); what sets it apart from self-attention is
// that s and h come from two sequences. Also the scores general (s.W h, by turning s into W^T s
// once a step) and location (W s, one row of W a key). Local-m is the pattern `local` with
// query_origin 0, local-p comes with `centers`.
//
// Paper: Luong, Pham, Manning 2015, "Effective Approaches to Attention-based Neural Machine
// Translation", eqs. 7-10.
// Cost: 4 d flops a pair; h is read twice a step, so long encoders are bound by the cache they fit
// in. Memory: one row of scores a thread.
#include <omp.h>

#include "kernels/contract/kernel.h"
#include "kernels/simd/row_attention.h"
#include "kernels/simd/row_ops.h"
#include "kernels/simd/target.h"

namespace attnbench {
namespace {

struct Scratch {  // of one thread
  float* logits;  // [keys]
  float* query;   // [head_dim]: W^T s
};

Scratch Layout(const Problem& p, Arena& arena) {
  return {arena.Take<float>(p.keys), arena.Take<float>(p.head_dim)};
}

std::size_t BytesPerThread(const Problem& p) {
  Arena count;
  Layout(p, count);
  return count.bytes();
}

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const Index steps = p.batch * p.heads * p.queries;
#pragma omp parallel num_threads(context.threads)
  {
    Arena arena(context.workspace + omp_get_thread_num() * BytesPerThread(p));
    const Scratch scratch = Layout(p, arena);
#pragma omp for schedule(static)
    for (Index step = 0; step < steps; ++step) {
      const Index b = step / (p.heads * p.queries), head = step / p.queries % p.heads;
      const Index i = step % p.queries;
      const KeyRange range = ReachableKeys(p, in, b, i);
      const float* state = in.q.Row<float>(b, head, i);
      const float* rows = in.k.Row<float>(b, p.KvHead(head), range.begin);
      Index row_stride = in.k.row_stride;
      if (p.score == Score::kGeneral) {
        WeightedSum(state, in.score.w, p.head_dim, p.head_dim, p.head_dim, 1.0f, scratch.query);
        state = scratch.query;
      } else if (p.score == Score::kLocation) {
        rows = in.score.w + range.begin * p.head_dim;
        row_stride = p.head_dim;
      }
      RowDots(state, rows, row_stride, range.size(), p.head_dim, static_cast<float>(p.scale),
              scratch.logits);
      FinishRow(p, in, out, b, head, i, range, scratch.logits);
    }
  }
}

std::size_t Workspace(const Problem& p, const Options&, int threads) {
  return BytesPerThread(p) * threads;
}

std::string Refuse(const Problem& p, const Options&) {
  return Unserved(p, {.scores = {Score::kDot, Score::kGeneral, Score::kLocation},
                      .key_lengths = true,
                      .centers = true});
}

ATTN_KERNEL(.name = "luong", .idea = "Luong's dot, general and location, a decoder state at a time",
            .provides = kLse | kWeights, .refuse = Refuse, .executed = RowwiseCost,
            .workspace = Workspace, .run = Run, .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
