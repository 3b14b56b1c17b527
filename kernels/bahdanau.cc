// SPDX-License-Identifier: Apache-2.0
// bahdanau: additive attention, the first attention there was. The score of decoder state s and
// encoder state h is a small network, v . tanh(W s + U h). U h does not depend on the decoder, so
// it is computed once a sequence; a step then costs one add, one tanh and one multiply-add a pair
// and hidden unit. Luong's concat score v . tanh(W [s; h]) is the same with W split in two.
//
// Paper: Bahdanau, Cho, Bengio 2014, "Neural Machine Translation by Jointly Learning to Align and
// Translate", A.1.2. Cost: hidden tanh a pair, far dearer than a dot product's 2 d flops; memory
// B kv_heads keys hidden floats for U h.
#include <omp.h>

#include "kernels/contract/kernel.h"
#include "kernels/simd/row_attention.h"
#include "kernels/simd/row_ops.h"
#include "kernels/simd/target.h"

namespace attnbench {
namespace {

// W and U as [hidden][head_dim] with a row stride, whichever score they come from.
struct Projections {
  const float *w, *u;
  Index row_stride;
};
Projections ProjectionsOf(const Problem& p, const ScoreWeights& s) {
  if (p.score == Score::kConcat) return {s.w, s.w + p.head_dim, 2 * p.head_dim};
  return {s.w, s.u, p.head_dim};
}

struct Scratch {
  float* projected_keys;   // [batch][kv_heads][keys][hidden], shared
  float* logits;           // [threads][keys]
  float* projected_query;  // [threads][hidden]
};
Scratch Layout(const Problem& p, int threads, Arena& arena) {
  return {arena.Take<float>(p.batch * p.kv_heads * p.keys * p.hidden),
          arena.Take<float>(threads * p.keys), arena.Take<float>(threads * p.hidden)};
}

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const Projections projections = ProjectionsOf(p, in.score);
  Arena arena(context.workspace);
  const Scratch scratch = Layout(p, context.threads, arena);
  const Index key_rows = p.batch * p.kv_heads * p.keys;
  const Index steps = p.batch * p.heads * p.queries;

#pragma omp parallel num_threads(context.threads)
  {
#pragma omp for schedule(static)
    for (Index row = 0; row < key_rows; ++row) {
      const Index b = row / (p.kv_heads * p.keys), g = row / p.keys % p.kv_heads;
      const Index j = row % p.keys;
      if (in.key_lengths && j >= in.key_lengths[b]) continue;
      RowDots(in.k.Row<float>(b, g, j), projections.u, projections.row_stride, p.hidden, p.head_dim,
              1.0f, scratch.projected_keys + row * p.hidden);
    }

    float* logits = scratch.logits + omp_get_thread_num() * p.keys;
    float* query = scratch.projected_query + omp_get_thread_num() * p.hidden;
#pragma omp for schedule(static)
    for (Index step = 0; step < steps; ++step) {
      const Index b = step / (p.heads * p.queries), head = step / p.queries % p.heads;
      const Index i = step % p.queries;
      const KeyRange range = ReachableKeys(p, in, b, i);
      const Index first_row = (b * p.kv_heads + p.KvHead(head)) * p.keys + range.begin;
      RowDots(in.q.Row<float>(b, head, i), projections.w, projections.row_stride, p.hidden,
              p.head_dim, 1.0f, query);
      AdditiveDots(query, scratch.projected_keys + first_row * p.hidden, range.size(), p.hidden,
                   in.score.v, static_cast<float>(p.scale), logits);
      FinishRow(p, in, out, b, head, i, range, logits);
    }
  }
}

std::size_t Workspace(const Problem& p, const Options&, int threads) {
  Arena count;
  Layout(p, threads, count);
  return count.bytes();
}

std::string Refuse(const Problem& p, const Options&) {
  return Unserved(
      p, {.scores = {Score::kAdditive, Score::kConcat}, .key_lengths = true, .centers = true});
}

ATTN_KERNEL(.name = "bahdanau", .idea = "additive score v.tanh(W s + U h), U h once a sequence",
            .provides = kLse | kWeights, .refuse = Refuse, .executed = RowwiseCost,
            .workspace = Workspace, .run = Run, .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
