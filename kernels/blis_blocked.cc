// SPDX-License-Identifier: Apache-2.0
// blis_blocked: attention as two matrix products by a library. For a block of queries S = Q K^T and
// O = P V are BLIS sgemm calls, the softmax between them a vectorised pass over the block's rows.
// BLIS runs single-threaded inside our OpenMP over batch x heads x query blocks.
//
// Paper: Van Zee, van de Geijn 2015, "BLIS: A Framework for Rapidly Instantiating BLAS
// Functionality". Cost: 4 d flops a pair of the block's bounding range of keys (masked pairs inside
// it are computed and thrown away); memory query_block x keys floats a thread.
// Allocates: BLIS's packing pool, kept between calls; the first run of a shape may grow it.
// Reads beyond: BLIS 0.9's AVX2 kernels (zen3, haswell) load up to a KiB from behind their
// matrices, of which they make nothing. Inputs that end where the process's memory does, as those
// of a mapped file may, can crash it; copy them, or use another kernel. Its AVX-512 ones (skx) do
// not.
//
// Tried: query blocks of 16 ... 256 (see the option); small blocks starve the packing of K.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/contract/kernel.h"
#include "kernels/simd/gemm.h"
#include "kernels/simd/row_attention.h"
#include "kernels/simd/row_ops.h"

#if ATTNBENCH_HAS_BLIS
#include <omp.h>
#endif

namespace attnbench {
namespace {

const std::vector<Option> kOptions = {
    {"query_block", 64, 1, 4096, "queries a block: rows of both products"}};

#if ATTNBENCH_HAS_BLIS

constexpr float kInf = std::numeric_limits<float>::infinity();

// The keys that at least one query of [first, first + count) can reach, as one range.
KeyRange BoundingRange(const Problem& p, const Inputs& in, Index b, Index first, Index count) {
  KeyRange bounds = {p.keys, 0};
  for (Index i = first; i < first + count; ++i) {
    const KeyRange range = ReachableKeys(p, in, b, i);
    if (range.size() <= 0) continue;
    bounds = {std::min(bounds.begin, range.begin), std::max(bounds.end, range.end)};
  }
  return bounds.size() > 0 ? bounds : KeyRange{0, 0};
}

// O and the softmax statistics of one block of queries of one head.
void Block(const Problem& p, const Inputs& in, const Output& out, Index b, Index h, Index first,
           Index count, float* scores) {
  const Index g = p.KvHead(h);
  const KeyRange range = BoundingRange(p, in, b, first, count);
  const Index keys = range.size();
  const bool masked = p.mask.causal || p.mask.pattern != Mask::Pattern::kFull;

  if (keys > 0)
    Gemm(count, keys, p.head_dim, static_cast<float>(p.scale),
         {in.q.Row<float>(b, h, first), in.q.row_stride},
         {in.k.Row<float>(b, g, range.begin), in.k.row_stride}, Transpose::kYes, {scores, keys});
  for (Index r = 0; r < count; ++r) {
    const Index i = first + r;
    float* row = scores + r * keys;
    if (in.bias) {
      const float* bias = in.bias.Row<float>(b, h, i) + range.begin;
      for (Index j = 0; j < keys; ++j) row[j] += bias[j];
    }
    if (masked)
      for (Index j = 0; j < keys; ++j)
        if (!p.Admits(i, range.begin + j)) row[j] = -kInf;
    const SoftmaxRow softmax = ExpRow(row, keys);
    const float normaliser = softmax.sum == 0 ? 0 : 1 / softmax.sum;
    for (Index j = 0; j < keys; ++j) row[j] *= normaliser;
    if (out.lse) out.lse[(b * p.heads + h) * p.queries + i] = softmax.max + std::log(softmax.sum);
    if (out.weights) {
      float* weights = out.weights.Row<float>(b, h, i);
      std::fill_n(weights, p.keys, 0.0f);
      std::copy_n(row, keys, weights + range.begin);
    }
  }
  if (keys > 0) {
    Gemm(count, p.v_dim, keys, 1.0f, {scores, keys},
         {in.v.Row<float>(b, g, range.begin), in.v.row_stride}, Transpose::kNo,
         {out.out.Row<float>(b, h, first), out.out.row_stride});
  } else {
    for (Index r = 0; r < count; ++r)
      std::fill_n(out.out.Row<float>(b, h, first + r), p.v_dim, 0.0f);
  }
}

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const Index block = std::min((*context.options)["query_block"], p.queries);
  const Index blocks = (p.queries + block - 1) / block;
  const Index tasks = p.batch * p.heads * blocks;
  // Later blocks see more keys under a causal mask: hand them out one by one, largest first.
#pragma omp parallel for schedule(dynamic) num_threads(context.threads)
  for (Index task = 0; task < tasks; ++task) {
    const Index first = (blocks - 1 - task % blocks) * block;
    float* scores =
        reinterpret_cast<float*>(context.workspace) + omp_get_thread_num() * block * p.keys;
    Block(p, in, out, task / blocks / p.heads, task / blocks % p.heads, first,
          std::min(block, p.queries - first), scores);
  }
}

Cost Executed(const Problem& p, const Options& options) {
  const Index block = std::min(options["query_block"], p.queries);
  double pairs = 0;
  for (Index first = 0; first < p.queries; first += block) {
    const Index count = std::min(block, p.queries - first);
    pairs += static_cast<double>(count) * BoundingRange(p, {}, 0, first, count).size();
  }
  pairs *= p.batch * p.heads;
  Cost cost = p.Useful();
  cost.flops = 2.0 * (p.head_dim + p.v_dim) * pairs;
  cost.exps = pairs;
  return cost;
}

std::size_t Workspace(const Problem& p, const Options& options, int threads) {
  return sizeof(float) * static_cast<std::size_t>(std::min(options["query_block"], p.queries)) *
         static_cast<std::size_t>(p.keys) * threads;
}

std::string Refuse(const Problem& p, const Options&) {
  GemmLibrary();  // initialises BLIS outside any timing
  return Unserved(p, {.bias = true, .key_lengths = true});
}

ATTN_KERNEL(.name = "blis_blocked", .idea = "query blocks; Q K^T and P V by BLIS sgemm",
            .provides = kLse | kWeights, .options = kOptions, .refuse = Refuse,
            .executed = Executed, .workspace = Workspace, .run = Run, .target = GemmLibrary);

#else

ATTN_KERNEL(
        .name = "blis_blocked", .idea = "query blocks; Q K^T and P V by BLIS sgemm",
        .options = kOptions,
        .refuse = [](const Problem&, const Options&) -> std::string {
          return "built without BLIS (install libblis-openmp-dev and rebuild)";
        },
        .run = [](const Problem&, const Inputs&, const Output&, const Context&) {});

#endif

}  // namespace
}  // namespace attnbench
