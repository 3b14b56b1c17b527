// SPDX-License-Identifier: Apache-2.0
// ring: one sequence over many processes. Each rank keeps its rows of q; blocks of k and v travel
// from rank to rank, and while a block is at hand the flash kernel attends over it and the next one
// is already on its way. What the blocks leave is merged by log-sum-exp: softmax over all keys is
// the mean of the softmaxes over parts of them, weighted by the parts' sums of exponentials.
//
// Papers: Liu, Zaharia and Abbeel 2023 (Ring Attention); Li et al. 2021 (sequence parallelism);
// zigzag order under a causal mask: Zhu et al. 2024, as Brandon et al. 2023 (Striped Attention) for
// balance. Cost, a rank of R: 1/R of flash's work; (R - 1)/R n (d + d_v) elements of k and v sent a
// K/V head; memory O(n (d + d_v) / R): the two blocks in flight and an f32 output.
//
// Balance: under a causal mask early rows see few keys. With `zigzag` rank r has part r from the
// front of 2 R parts and part r from the back, and every rank the same work at every step; without
// it the last rank works (2 R - 1) / R times the mean while the others wait for it.
// Overlap: libraries for messages move them mostly while they are called, so the work is cut into
// slices of `query_block` rows a thread, with a call in between.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/ranks.h"

namespace attnbench {
namespace {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();

Shard ShardOf(const Problem& p, const Options& options, int ranks, int rank) {
  const auto part = [&](Index n, Shard* shard, Rows Shard::* rows) {
    if (ranks > 1 && p.mask.causal && options["zigzag"])
      shard->*rows = {EvenPart(n, 2 * ranks, rank), EvenPart(n, 2 * ranks, 2 * ranks - 1 - rank)};
    else
      shard->*rows = {EvenPart(n, ranks, rank), RowRun{}};
  };
  Shard shard;
  part(p.queries, &shard, &Shard::queries);
  part(p.keys, &shard, &Shard::keys);
  return shard;
}

Index KeyRowBytes(const Problem& p) {  // of all heads
  return p.batch * p.kv_heads * (p.head_dim + p.v_dim) * static_cast<Index>(SizeOf(p.dtype));
}

// The problem of some rows of one K/V head's group of heads over some keys, at their true places.
Problem SliceOf(const Problem& p, RowRun queries, RowRun keys) {
  Problem slice = p;
  slice.batch = 1;
  slice.heads = p.heads / p.kv_heads;
  slice.kv_heads = 1;
  slice.queries = queries.count;
  slice.keys = keys.count;
  slice.positions.query_origin = p.QueryPosition(queries.first);
  slice.positions.key_origin = p.KeyPosition(keys.first);
  slice.out_dtype = DType::kF32;
  slice.has_key_lengths = false;  // cut off before
  return slice;
}

// False only where no query of the slice admits any of its keys.
bool SeesAny(const Problem& slice) {
  const auto [first_query, last_query] =
      std::minmax({slice.QueryPosition(0), slice.QueryPosition(slice.queries - 1)});
  const auto [first_key, last_key] =
      std::minmax({slice.KeyPosition(0), slice.KeyPosition(slice.keys - 1)});
  const Mask& mask = slice.mask;
  if (mask.causal && first_key > last_query) return false;
  if (mask.pattern != Mask::Pattern::kLocal || first_key < mask.sinks) return true;
  return first_key <= last_query + mask.window && last_key >= first_query - mask.window;
}

// Rows of a slice: enough for all threads, few enough that messages are looked after often.
Index SliceRows(const Options& options, int threads) { return options["query_block"] * threads; }

// Where the workspace holds what.
struct Work {
  // Of all own rows [batch][heads][rows], not yet divided by their sums; relative to `reference`.
  float *out, *reference, *sum;
  float *slice_out, *slice_lse;  // of one slice, as flash leaves them
  std::byte* block[2];           // k and v of the shard at hand and of the next
  std::byte* inner;

  static std::size_t Lay(const Problem& p, const Options& options, int threads, int ranks, int rank,
                         std::byte* base, Work* w) {
    const Shard own = ShardOf(p, options, ranks, rank);
    const Index rows = p.batch * p.heads * own.query_rows();
    Index keys = 0, run = 0;  // of the largest shard and the longest run
    for (int r = 0; r < ranks; ++r) {
      const Shard shard = ShardOf(p, options, ranks, r);
      keys = std::max(keys, shard.key_rows());
      for (const RowRun& k : shard.keys) run = std::max(run, k.count);
    }
    Index slice_rows = 0;
    for (const RowRun& q : own.queries) slice_rows = std::max(slice_rows, q.count);
    slice_rows = std::min(slice_rows, SliceRows(options, threads));
    const Index slice = slice_rows * (p.heads / p.kv_heads);

    Arena arena(base);
    w->out = arena.Take<float>(rows * p.v_dim);
    w->reference = arena.Take<float>(rows);
    w->sum = arena.Take<float>(rows);
    w->slice_out = arena.Take<float>(slice * p.v_dim);
    w->slice_lse = arena.Take<float>(slice);
    for (std::byte*& block : w->block)
      block = arena.Take<std::byte>(ranks > 1 ? keys * KeyRowBytes(p) : 0);
    w->inner = arena.Take<std::byte>(0);
    if (slice_rows == 0 || run == 0) return arena.bytes();
    return arena.bytes() +
           InnerKernel().workspace(SliceOf(p, {0, slice_rows}, {0, run}), InnerOptions(), threads);
  }
};

// k and v of one shard.
struct Block {
  ConstTensor k, v;
  Shard shard;
};

// A block as it travels: k [batch][kv_heads][rows][head_dim], then v likewise.
Block Packed(const Problem& p, const Shard& shard, std::byte* data) {
  const Index rows = shard.key_rows(), size = static_cast<Index>(SizeOf(p.dtype));
  std::byte* const v = data + p.batch * p.kv_heads * rows * p.head_dim * size;
  return {PackedView(data, p.dtype, p.kv_heads, rows, p.head_dim),
          PackedView(v, p.dtype, p.kv_heads, rows, p.v_dim), shard};
}

class RingPass {
 public:
  RingPass(const Problem& p, const Inputs& in, const Output& out, const Context& context,
           Ranks* ranks)
      : p_(p),
        in_(in),
        out_(out),
        options_(*context.options),
        threads_(context.threads),
        ranks_(*ranks),
        own_(ShardOf(p, options_, ranks->size(), ranks->rank())),
        rows_(own_.query_rows()) {
    Work::Lay(p, options_, threads_, ranks_.size(), ranks_.rank(), context.workspace, &work_);
  }

  void Run() {
    const int size = ranks_.size(), rank = ranks_.rank();
    const bool overlap = options_["overlap"] != 0;
    ranks_.NoteRun();
    ranks_.Time(&Ranks::Parts::merge_ns, [&] {
      Clear();
      if (size > 1) Pack();
    });
    for (int step = 0; step < size; ++step) {
      const Shard at_hand = ShardOf(p_, options_, size, (rank - step + size) % size);
      const bool more = step + 1 < size;
      if (more && overlap) Pass(step, at_hand);
      Attend(step == 0 ? Block{in_.k, in_.v, own_} : Packed(p_, at_hand, work_.block[step % 2]));
      if (more && !overlap) Pass(step, at_hand);
      if (more) ranks_.Finish();
    }
    ranks_.Time(&Ranks::Parts::merge_ns, [&] { Write(); });
  }

 private:
  // Begins to send the block at hand on, and to receive the next.
  void Pass(int step, const Shard& at_hand) {
    const int size = ranks_.size(), rank = ranks_.rank();
    const Shard next = ShardOf(p_, options_, size, (rank - step - 1 + 2 * size) % size);
    ranks_.Receive(work_.block[(step + 1) % 2], next.key_rows() * KeyRowBytes(p_),
                   (rank - 1 + size) % size);
    ranks_.Send(work_.block[step % 2], at_hand.key_rows() * KeyRowBytes(p_), (rank + 1) % size);
  }

  void Pack() {
    const Block packed = Packed(p_, own_, work_.block[0]);
    const auto copy = [&](const ConstTensor& from, const ConstTensor& to, Index columns) {
      const std::size_t bytes = columns * SizeOf(p_.dtype);
      for (Index b = 0; b < p_.batch; ++b)
        for (Index g = 0; g < p_.kv_heads; ++g)
          for (Index j = 0; j < own_.key_rows(); ++j)
            std::memcpy(const_cast<void*>(From(to, b, g, j).data), From(from, b, g, j).data, bytes);
    };
    copy(in_.k, packed.k, p_.head_dim);
    copy(in_.v, packed.v, p_.v_dim);
  }

  void Clear() {
    const Index rows = p_.batch * p_.heads * rows_;
    std::fill_n(work_.out, rows * p_.v_dim, 0.0f);
    std::fill_n(work_.reference, rows, kNegInf);
    std::fill_n(work_.sum, rows, 0.0f);
  }

  // All own queries over one block, slice by slice.
  void Attend(const Block& block) {
    const Index most = SliceRows(options_, threads_);
    for (Index b = 0; b < p_.batch; ++b)
      for (Index g = 0; g < p_.kv_heads; ++g) {
        Index row = 0;  // among the own
        for (const RowRun& run : own_.queries)
          for (Index i = 0; i < run.count; i += most) {
            const RowRun queries{run.first + i, std::min(most, run.count - i)};
            Index key_row = 0;  // among the block's
            for (const RowRun& keys : block.shard.keys) {
              AttendSlice(block, b, g, row, queries, key_row, keys);
              key_row += keys.count;
            }
            row += queries.count;
          }
      }
  }

  void AttendSlice(const Block& block, Index b, Index g, Index row, RowRun queries, Index key_row,
                   RowRun keys) {
    if (in_.key_lengths)
      keys.count = std::clamp<Index>(in_.key_lengths[b] - keys.first, 0, keys.count);
    if (keys.count == 0) return;
    const Problem slice = SliceOf(p_, queries, keys);
    if (!SeesAny(slice)) return;
    Inputs in;
    in.q = From(in_.q, b, g * slice.heads, row);
    in.k = From(block.k, b, g, key_row);
    in.v = From(block.v, b, g, key_row);
    Output out;
    out.out = {work_.slice_out, DType::kF32, 0, queries.count * p_.v_dim, p_.v_dim};
    out.lse = work_.slice_lse;
    ranks_.Time(&Ranks::Parts::compute_ns,
                [&] { RunInner(slice, in, out, threads_, work_.inner); });
    ranks_.Time(&Ranks::Parts::merge_ns, [&] { Merge(b, g * slice.heads, row, slice); });
    ranks_.Progress();
  }

  Index Row(Index b, Index h, Index row) const { return (b * p_.heads + h) * rows_ + row; }

  // The slice's rows into those from `row` on. A row that saw no key has log-sum-exp -inf and adds
  // nothing; NaN and Inf stay what they are.
  void Merge(Index b, Index h, Index row, const Problem& slice) {
    const Index count = slice.heads * slice.queries, columns = p_.v_dim;
#pragma omp parallel for num_threads(threads_) if (threads_ > 1)
    for (Index s = 0; s < count; ++s) {
      const float lse = work_.slice_lse[s];
      if (lse == kNegInf) continue;
      const Index r = Row(b, h + s / slice.queries, row + s % slice.queries);
      const float reference =
          lse > work_.reference[r] || std::isnan(lse) ? lse : work_.reference[r];
      const float old = work_.sum[r] == 0 ? 0 : std::exp(work_.reference[r] - reference);
      const float add = std::exp(lse - reference);
      work_.reference[r] = reference;
      work_.sum[r] = old * work_.sum[r] + add;
      float* into = work_.out + r * columns;
      const float* from = work_.slice_out + s * columns;
      for (Index c = 0; c < columns; ++c) into[c] = old * into[c] + add * from[c];
    }
  }

  void Write() const {
    const Index count = p_.batch * p_.heads * rows_;
#pragma omp parallel for num_threads(threads_) if (threads_ > 1)
    for (Index r = 0; r < count; ++r) {
      const Index b = r / (p_.heads * rows_), h = r / rows_ % p_.heads, row = r % rows_;
      const float sum = work_.sum[r], factor = sum == 0 ? 0 : 1 / sum;
      const float* from = work_.out + r * p_.v_dim;
      if (p_.out_dtype == DType::kBF16) {
        BFloat16* to = out_.out.Row<BFloat16>(b, h, row);
        for (Index c = 0; c < p_.v_dim; ++c) to[c] = BFloat16::FromFloat(factor * from[c]);
      } else {
        float* to = out_.out.Row<float>(b, h, row);
        for (Index c = 0; c < p_.v_dim; ++c) to[c] = factor * from[c];
      }
      if (out_.lse) out_.lse[r] = sum == 0 ? kNegInf : work_.reference[r] + std::log(sum);
    }
  }

  const Problem& p_;
  const Inputs& in_;
  const Output& out_;
  const Options& options_;
  const int threads_;
  Ranks& ranks_;
  const Shard own_;
  const Index rows_;  // of own queries
  Work work_;
};

std::string Refuse(const Problem& p, const Options&) {
  if (p.has_bias) return "bias: as large as queries x keys, it is not sharded";
  if (p.mask.pattern == Mask::Pattern::kTiles) return "tiles: a list of tiles is not sharded";
  return InnerKernel().refuse(p, InnerOptions());
}

std::size_t Workspace(const Problem& p, const Options& options, int threads, int ranks, int rank) {
  Work work;
  return Work::Lay(p, options, threads, ranks, rank, nullptr, &work);
}

ATTN_KERNEL(
        .name = "ring", .idea = "one sequence over ranks: blocks of keys and values travel a ring",
        .provides = kLse,
        .options = {{"zigzag", 1, 0, 1, "1: a causal mask's rows dealt out so that all work alike"},
                    {"overlap", 1, 0, 1, "0: send only when the block at hand is done"},
                    {"query_block", 512, 16, 1 << 20, "rows a thread between looks at messages"}},
        .refuse = Refuse,
        .executed = [](const Problem& p,
                       const Options&) { return InnerKernel().executed(p, InnerOptions()); },
        .workspace = [](const Problem& p, const Options& o,
                        int threads) { return Workspace(p, o, threads, 1, 0); },
        .run = [](const Problem& p, const Inputs& in, const Output& out,
                  const Context& context) { RingPass(p, in, out, context, &Ranks::Mine()).Run(); },
        .target = [] { return InnerKernel().target(); });

ATTN_OVER_RANKS("ring",
                {.refuse = [](const Problem&, const Options&, int) { return std::string(); },
                 .shard = ShardOf,
                 .workspace = Workspace,
                 // Every row of k and v visits all other ranks.
                 .bytes_sent =
                     [](const Problem& p, const Options&, int ranks) {
                       return static_cast<double>(ranks - 1) *
                              static_cast<double>(p.keys * KeyRowBytes(p));
                     }});

}  // namespace
}  // namespace attnbench
