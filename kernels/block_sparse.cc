// SPDX-License-Identifier: Apache-2.0
// block_sparse: a list of tiles says which keys a block of queries sees; tiles that touch are one
// run of keys, and what no tile admits is not computed. Windows of blocks, global tokens
// (Longformer), random blocks (BigBird) and dilated windows are such lists.
//
// Where tiles are single pairs and all keys of a query lie g apart, as in a dilated window, queries
// and keys fall into g residue classes that do not see each other. Each is a problem of its own, on
// every g-th row of the tensors, in which the window is whole: in the order of the positions, 32
// neighbours would share a window of which each sees one key in g.
//
// The runs are planned: found on the way, as top_blocks does with its high tiles, those of single
// pairs cost as much as attending them (a band: 2.3 times dense a pair for 1.2).
// A pair costs, in dense flash's (Zen 4, d = 64, n = 4096, 130 to 700 keys a query): tiles of 64
// 1.1, of 32 1.2, of 16 1.3 to 1.4; at n = 2048, of 130 keys: a dilated window 1.2, a band with
// global tokens 1.2 to 1.3 (1.5 to 1.8 at n = 512, of 64 keys: four queries that see all keys fill
// a quarter of a vector). Tiles of 8 cost 2.4 to 2.7: half a vector has no use for them.
//
// Papers: Zaheer et al. 2020 (BigBird), Beltagy et al. 2020 (Longformer: global tokens, dilation),
// Child et al. 2019 (block-sparse kernels). Engine: simd/attend-inl.h, as in flash.
// Cost: 2 a (d + d_v) flops, a the admitted pairs, and as many more as a vector of queries has
// lanes that a tile leaves out: none where tiles are as high as a vector or higher. O(d) memory a
// thread (bf16: a copy of the values).
#include <numeric>
#include <optional>

#include "kernels/simd/target.h"
#include "kernels/simd/tile_attention.h"

namespace attnbench {
namespace {

AttendOptions OptionsOf(const Options& options) { return {.key_block = options["key_block"]}; }

// Queries first_query, + classes, ... see keys among first_key, + classes, ... only.
struct ClassOfRows {
  Index first_query = 0, first_key = 0;
  Problem problem;
  std::optional<RunPlan> plan = {};
};
using Classes = std::vector<ClassOfRows>;

// How far apart all keys of every query lie, moving along with the query; 1 where they do not.
Index Apart(const Problem& p) {
  const TileList& t = *p.mask.tiles;
  if (t.query_tile != 1 || t.key_tile != 1 || p.mask.sinks > 0 || p.has_bias || t.column.empty())
    return 1;
  Index apart = 0, reference = 0;
  bool first = true;
  for (Index i = 0; i < p.queries && apart != 1; ++i) {
    for (Index at = t.row_begin[i]; at < t.row_begin[i + 1]; ++at) {
      if (first) reference = t.column[at] - i, first = false;
      apart = std::gcd(apart, std::abs(t.column[at] - i - reference));
    }
  }
  return std::clamp<Index>(apart, 1, std::min(p.queries, p.keys));
}

Classes ClassesOf(const Problem& p) {
  const Index apart = Apart(p);
  if (apart == 1) return {{.problem = p}};
  const TileList& t = *p.mask.tiles;
  // Any pair tells which keys go with which queries.
  const Index row =
      std::upper_bound(t.row_begin.begin(), t.row_begin.end(), 0) - t.row_begin.begin() - 1;
  const Index shift = t.column.front() - row;
  Classes classes;
  for (Index r = 0; r < apart; ++r) {
    ClassOfRows c{r, ((r + shift) % apart + apart) % apart, p};
    const auto rows = [&](Index all, Index from) { return (all - from + apart - 1) / apart; };
    Problem& q = c.problem;
    q.queries = rows(p.queries, r), q.keys = rows(p.keys, c.first_key);
    q.positions = {p.QueryPosition(r), p.positions.query_step * apart, p.KeyPosition(c.first_key),
                   p.positions.key_step * apart};
    auto tiles = std::make_shared<TileList>();
    tiles->query_tile = tiles->key_tile = 1;
    tiles->row_begin.push_back(0);
    for (Index i = r; i < p.queries; i += apart) {
      for (Index at = t.row_begin[i]; at < t.row_begin[i + 1]; ++at)
        tiles->column.push_back((t.column[at] - c.first_key) / apart);
      tiles->row_begin.push_back(std::ssize(tiles->column));
    }
    q.mask.tiles = std::move(tiles);
    classes.push_back(std::move(c));
  }
  return classes;
}

// Every `step`-th row of a tensor.
template <class TensorView>
TensorView EveryRow(TensorView t, Index first, Index step) {
  const Index bytes = first * t.row_stride * static_cast<Index>(SizeOf(t.dtype));
  using Byte = std::conditional_t<std::is_same_v<TensorView, Tensor>, std::byte, const std::byte>;
  t.data = static_cast<Byte*>(t.data) + bytes;
  t.row_stride *= step;
  return t;
}

// Log-sum-exp and key lengths of one class.
struct Scratch {
  Scratch(const Problem& p, Arena* arena)
      : lse(arena->Take<float>(p.batch * p.heads * p.queries)),
        key_lengths(arena->Take<Index>(p.batch)) {}
  float* lse;
  Index* key_lengths;
};

std::size_t Workspace(const Problem& p, const Options& o, int threads) {
  const AttendOptions options = OptionsOf(o);
  if (Apart(p) == 1) return TilesWorkspace(p, options, threads);
  std::size_t most = 0;
  for (const ClassOfRows& c : ClassesOf(p))
    most = std::max(most, TilesWorkspace(c.problem, options, threads));
  Arena arena;
  const Scratch scratch(p, &arena);
  return arena.bytes() + most;
}

void RunClass(const ClassOfRows& c, Index classes, const Problem& p, const Inputs& in,
              const Output& out, const Context& context) {
  Arena arena(context.workspace);
  const Scratch scratch(p, &arena);
  Inputs mine = in;
  mine.q = EveryRow(in.q, c.first_query, classes);
  mine.k = EveryRow(in.k, c.first_key, classes);
  mine.v = EveryRow(in.v, c.first_key, classes);
  if (in.key_lengths) {
    for (Index b = 0; b < p.batch; ++b)
      scratch.key_lengths[b] =
          (std::max(in.key_lengths[b] - c.first_key, Index{0}) + classes - 1) / classes;
    mine.key_lengths = scratch.key_lengths;
  }
  Output to = out;
  to.out = EveryRow(out.out, c.first_query, classes);
  if (out.lse) to.lse = scratch.lse;
  Context own = context;
  own.workspace = arena.Take<std::byte>(0);
  AttendTiles(c.problem, mine, to, OptionsOf(*context.options), own, &*c.plan);
  if (!out.lse) return;
  for (Index row = 0; row < p.batch * p.heads; ++row)
    for (Index i = 0; i < c.problem.queries; ++i)
      out.lse[row * p.queries + c.first_query + i * classes] =
          scratch.lse[row * c.problem.queries + i];
}

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const Classes& classes = *static_cast<const Classes*>(context.plan);
  if (classes.size() == 1) {
    AttendTiles(p, in, out, OptionsOf(*context.options), context, &*classes.front().plan);
    return;
  }
  for (const ClassOfRows& c : classes) RunClass(c, std::ssize(classes), p, in, out, context);
}

Cost Executed(const Problem& p, const Options&) {
  Cost cost = p.Useful();
  cost.flops = cost.exps = 0;
  for (const ClassOfRows& c : ClassesOf(p)) {
    const Cost own = TilesCost(c.problem);
    cost.flops += own.flops, cost.exps += own.exps;
  }
  return cost;
}

std::string Refuse(const Problem& p, const Options&) {
  return TilesUnserved(
      p, {.patterns = {Mask::Pattern::kTiles}, .bf16 = true, .bias = true, .key_lengths = true});
}

ATTN_KERNEL(
        .name = "block_sparse", .idea = "a list of tiles: runs of keys where tiles touch",
        .provides = kLse,
        .options = {{"key_block", 96, 16, 1024, "keys whose scores are in flight at once"}},
        .refuse = Refuse, .executed = Executed, .workspace = Workspace,
        .plan =
            [](const Problem& p, const Options&, int) {
              auto classes = std::make_shared<Classes>(ClassesOf(p));
              for (ClassOfRows& c : *classes) c.plan = PlanTiles(c.problem);
              return classes;
            },
        .run = Run, .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
