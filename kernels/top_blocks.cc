// SPDX-License-Identifier: Apache-2.0
// top_blocks: which keys matter is estimated from the inputs, then only these are attended. Queries
// and keys are pooled, a mean a block; a block of queries takes its own block of keys, the first
// one (where the sinks are), and the `blocks` - 2 others of the largest pooled scores.
//
// It does not solve dense attention: it is exact under the tiles that it selects, and records tell
// how far from dense it is (`dense`). One list serves all heads, so scores are pooled over heads
// too, each head's as softmax over its blocks; for a choice by head, give it one head.
//
// Papers: Jiang et al. 2024 (MInference: pooled queries and keys, for its block-sparse heads), Tang
// et al. 2024 (Quest: blocks by bounds on their keys, for decoding). Engine: as block_sparse.
// Cost: selection 2 d n^2 / block^2 flops, two passes over Q and K and a sort a block of queries;
// then 2 a (d + d_v) flops, a = blocks * block keys a query.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/simd/target.h"
#include "kernels/simd/tile_attention.h"

namespace attnbench {
namespace {

Index Blocks(Index rows, Index block) { return (rows + block - 1) / block; }

// Means of blocks of rows: [blocks][columns].
template <class T>
void Pool(const ConstTensor& t, Index batch, Index head, Index rows, Index columns, Index block,
          std::vector<float>* means) {
  means->assign(Blocks(rows, block) * columns, 0.0f);
  for (Index i = 0; i < rows; ++i) {
    const T* row = t.Row<T>(batch, head, i);
    float* mean = means->data() + i / block * columns;
    for (Index c = 0; c < columns; ++c) mean[c] += ToFloat(row[c]);
  }
  for (Index b = 0; b < Blocks(rows, block); ++b) {
    const float share = 1.0f / static_cast<float>(std::min(block, rows - b * block));
    for (Index c = 0; c < columns; ++c) (*means)[b * columns + c] *= share;
  }
}

void PoolAny(const ConstTensor& t, Index batch, Index head, Index rows, Index columns, Index block,
             std::vector<float>* means) {
  t.dtype == DType::kBF16 ? Pool<BFloat16>(t, batch, head, rows, columns, block, means)
                          : Pool<float>(t, batch, head, rows, columns, block, means);
}

// Blocks of keys that some query of the block admits: the first so many.
Index Visible(const Problem& p, Index query_block, Index block, Index key_blocks) {
  if (!p.mask.causal) return key_blocks;
  const Index last = std::min((query_block + 1) * block, p.queries) - 1;
  const Index keys =
      std::clamp(p.QueryPosition(last) - p.positions.key_origin + 1, Index{0}, p.keys);
  return Blocks(keys, block);
}

// Adds softmax over the visible blocks of one head's pooled scores.
void AddShares(const float* q, const std::vector<float>& k, Index visible, Index columns,
               double scale, std::vector<float>* scores, float* total) {
  float most = -HUGE_VALF;
  for (Index b = 0; b < visible; ++b) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Index c = 0; c < columns; ++c) sum += q[c] * k[b * columns + c];
    (*scores)[b] = sum * static_cast<float>(scale);
    most = std::max(most, (*scores)[b]);
  }
  float sum = 0;
  for (Index b = 0; b < visible; ++b) sum += (*scores)[b] = std::exp((*scores)[b] - most);
  for (Index b = 0; b < visible; ++b) total[b] += (*scores)[b] / sum;
}

TileList Select(const Problem& p, const Inputs& in, const Context& context) {
  const Index block = (*context.options)["block"], wanted = (*context.options)["blocks"];
  const Index rows = Blocks(p.queries, block), columns = Blocks(p.keys, block);
  std::vector<float> totals(rows * columns, 0.0f);  // [rows][columns], over batch and heads
  std::vector<float> q, k, scores(columns);
  for (Index b = 0; b < p.batch; ++b) {
    for (Index h = 0; h < p.heads; ++h) {
      PoolAny(in.q, b, h, p.queries, p.head_dim, block, &q);
      if (h == 0 || p.KvHead(h) != p.KvHead(h - 1))
        PoolAny(in.k, b, p.KvHead(h), p.keys, p.head_dim, block, &k);
      for (Index r = 0; r < rows; ++r)
        AddShares(q.data() + r * p.head_dim, k, Visible(p, r, block, columns), p.head_dim, p.scale,
                  &scores, totals.data() + r * columns);
    }
  }
  TileList list{.query_tile = block, .key_tile = block, .row_begin = {0}, .column = {}};
  std::vector<Index> order;
  for (Index r = 0; r < rows; ++r) {
    const Index visible = Visible(p, r, block, columns);
    float* total = totals.data() + r * columns;
    // Not finite where the inputs are not: last, whatever they are.
    for (Index c = 0; c < visible; ++c)
      if (!std::isfinite(total[c])) total[c] = -1.0f;
    const Index own = std::clamp((p.QueryPosition(r * block) - p.positions.key_origin) / block,
                                 Index{0}, std::max(visible - 1, Index{0}));
    if (visible > 0) total[0] = HUGE_VALF, total[own] = HUGE_VALF;
    order.resize(visible);
    std::iota(order.begin(), order.end(), Index{0});
    const Index kept = std::min(wanted, visible);
    std::partial_sort(order.begin(), order.begin() + kept, order.end(), [&](Index x, Index y) {
      return total[x] != total[y] ? total[x] > total[y] : x > y;  // of equals the nearer ones
    });
    std::sort(order.begin(), order.begin() + kept);
    list.column.insert(list.column.end(), order.begin(), order.begin() + kept);
    list.row_begin.push_back(std::ssize(list.column));
  }
  return list;
}

AttendOptions OptionsOf(const Options& options) { return {.key_block = options["key_block"]}; }

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  Problem sparse = p;  // the pointer owns nothing, so that nothing is allocated
  sparse.mask.pattern = Mask::Pattern::kTiles;
  sparse.mask.tiles = {std::shared_ptr<const TileList>(), context.selected};
  AttendTiles(sparse, in, out, OptionsOf(*context.options), context, nullptr);
}

// Pairs of the selected tiles, as far as they are known beforehand: edges count as whole.
Cost Executed(const Problem& p, const Options& options) {
  const Index block = options["block"];
  double pairs = 0;
  for (Index r = 0; r < Blocks(p.queries, block); ++r) {
    const Index kept = std::min(options["blocks"], Visible(p, r, block, Blocks(p.keys, block)));
    pairs += static_cast<double>(std::min(block, p.queries - r * block) *
                                 std::min(kept * block, p.keys));
  }
  pairs *= static_cast<double>(p.batch * p.heads);
  Cost cost = p.Useful();
  cost.flops = 2.0 * static_cast<double>(p.head_dim + p.v_dim) * pairs;
  cost.exps = pairs;
  return cost;
}

std::string Refuse(const Problem& p, const Options&) {
  if (p.mask.sinks > 0) return "sinks are not served: the first block is always selected";
  return TilesUnserved(p, {.patterns = {Mask::Pattern::kFull}, .bf16 = true, .positions = false});
}

ATTN_KERNEL(
        .name = "top_blocks",
        .idea = "keys chosen by content: blocks of the largest pooled scores (not dense attention)",
        .provides = kLse,
        .options = {{"block", 64, 16, 4096, "queries and keys that are pooled and chosen together"},
                    {"blocks", 8, 2, 1 << 20, "blocks of keys that a block of queries sees"},
                    {"key_block", 96, 16, 1024, "keys whose scores are in flight at once"}},
        .refuse = Refuse, .executed = Executed,
        .workspace = [](const Problem& p, const Options& o,
                        int threads) { return TilesWorkspace(p, OptionsOf(o), threads); },
        .select = Select, .run = Run, .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
