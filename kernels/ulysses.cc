// SPDX-License-Identifier: Apache-2.0
// ulysses: one sequence over many processes, by heads. Each rank comes with some rows of all heads;
// one all-to-all gives it all rows of some heads, flash attends over them as one process would, a
// second one brings the output's rows back.
//
// Paper: Jacobs et al. 2023 (DeepSpeed-Ulysses). Cost, a rank of R: 1/R of flash's work; (R - 1)/R
// of its rows of q, k, v and out sent, which is O(n/R) where ring sends O(n); memory O(n (d + d_v)
// H/R). No more ranks than K/V heads; nothing overlaps, since attention begins when all has come.
// Any mask is balanced, every rank's heads see the same.
#include <algorithm>
#include <cstring>

#include "kernels/ranks.h"

namespace attnbench {
namespace {

Shard ShardOf(const Problem& p, const Options&, int ranks, int rank) {
  return {{EvenPart(p.queries, ranks, rank)}, {EvenPart(p.keys, ranks, rank)}};
}

// The K/V heads that are one rank's, as a problem of all rows.
RowRun HeadsOf(const Problem& p, int ranks, int rank) { return EvenPart(p.kv_heads, ranks, rank); }
Problem PartOf(const Problem& p, int ranks, int rank) {
  Problem part = p;
  part.kv_heads = HeadsOf(p, ranks, rank).count;
  part.heads = part.kv_heads * (p.heads / p.kv_heads);
  return part;
}

// Rows of one rank, heads of another, in bytes; padded to what AllToAll takes.
struct Message {
  std::size_t q, k, v, out, lse;

  Message(const Problem& p, const Options& options, int ranks, int rows_of, int heads_of) {
    const Shard shard = ShardOf(p, options, ranks, rows_of);
    const Index group = p.heads / p.kv_heads, heads = HeadsOf(p, ranks, heads_of).count;
    const std::size_t queries = p.batch * heads * group * shard.query_rows();
    const std::size_t keys = p.batch * heads * shard.key_rows();
    q = Padded(queries * p.head_dim * SizeOf(p.dtype));
    k = Padded(keys * p.head_dim * SizeOf(p.dtype));
    v = Padded(keys * p.v_dim * SizeOf(p.dtype));
    out = Padded(queries * p.v_dim * SizeOf(p.out_dtype));
    lse = queries * sizeof(float);
  }
  std::size_t inputs() const { return q + k + v; }
  std::size_t output(bool with_lse) const { return out + (with_lse ? lse : 0); }

 private:
  static std::size_t Padded(std::size_t bytes) { return (bytes + 3) / 4 * 4; }
};

struct Work {
  std::byte *send, *receive;
  std::size_t *send_bytes, *receive_bytes;
  std::byte *q, *k, *v, *out;  // of all rows of the own heads
  float* lse;
  std::byte* inner;

  static std::size_t Lay(const Problem& p, const Options& options, int threads, int ranks, int rank,
                         std::byte* base, Work* w) {
    if (ranks == 1) return InnerKernel().workspace(p, InnerOptions(), threads);
    std::size_t send = 0, receive = 0, back = 0, forth = 0;
    for (int r = 0; r < ranks; ++r) {
      const Message to(p, options, ranks, rank, r), from(p, options, ranks, r, rank);
      send += to.inputs(), receive += from.inputs();
      forth += from.output(true), back += to.output(true);
    }
    const Problem part = PartOf(p, ranks, rank);
    const Index queries = p.batch * part.heads * p.queries, keys = p.batch * part.kv_heads * p.keys;
    Arena arena(base);
    w->send = arena.Take<std::byte>(std::max(send, forth));
    w->receive = arena.Take<std::byte>(std::max(receive, back));
    w->send_bytes = arena.Take<std::size_t>(ranks);
    w->receive_bytes = arena.Take<std::size_t>(ranks);
    w->q = arena.Take<std::byte>(queries * p.head_dim * SizeOf(p.dtype));
    w->k = arena.Take<std::byte>(keys * p.head_dim * SizeOf(p.dtype));
    w->v = arena.Take<std::byte>(keys * p.v_dim * SizeOf(p.dtype));
    w->out = arena.Take<std::byte>(queries * p.v_dim * SizeOf(p.out_dtype));
    w->lse = arena.Take<float>(queries);
    w->inner = arena.Take<std::byte>(0);
    return arena.bytes() + InnerKernel().workspace(part, InnerOptions(), threads);
  }
};

// Copies `rows` rows of `heads` heads.
struct Place {
  ConstTensor tensor;
  Index head = 0, row = 0;
};
void Copy(const Place& from, const Place& to, Index batch, Index heads, Index rows, Index columns) {
  const std::size_t bytes = columns * SizeOf(from.tensor.dtype);
  const auto at = [](const Place& place, Index b, Index h, Index i) {
    return const_cast<void*>(From(place.tensor, b, place.head + h, place.row + i).data);
  };
  for (Index b = 0; b < batch; ++b)
    for (Index h = 0; h < heads; ++h)
      for (Index i = 0; i < rows; ++i) std::memcpy(at(to, b, h, i), at(from, b, h, i), bytes);
}

class UlyssesPass {
 public:
  UlyssesPass(const Problem& p, const Inputs& in, const Output& out, const Context& context,
              Ranks* ranks)
      : p_(p),
        in_(in),
        out_(out),
        context_(context),
        ranks_(*ranks),
        part_(PartOf(p, ranks->size(), ranks->rank())) {
    Work::Lay(p, *context.options, context.threads, ranks->size(), ranks->rank(), context.workspace,
              &work_);
  }

  void Run() {
    using Parts = Ranks::Parts;
    ranks_.Time(&Parts::merge_ns, [&] { PackInputs(); });
    ranks_.AllToAll(work_.send, work_.send_bytes, work_.receive, work_.receive_bytes);
    ranks_.Time(&Parts::merge_ns, [&] { UnpackInputs(); });
    ranks_.Time(&Parts::compute_ns, [&] { Attend(); });
    ranks_.Time(&Parts::merge_ns, [&] { PackOutput(); });
    ranks_.AllToAll(work_.send, work_.send_bytes, work_.receive, work_.receive_bytes);
    ranks_.Time(&Parts::merge_ns, [&] { UnpackOutput(); });
  }

 private:
  // All tensors of a rank's rows or heads: f(rank, its rows of queries, of keys, its K/V heads).
  template <class F>
  void ForEachRank(F f) const {
    for (int r = 0; r < ranks_.size(); ++r) {
      const Shard shard = ShardOf(p_, *context_.options, ranks_.size(), r);
      f(r, shard.queries[0], shard.keys[0], HeadsOf(p_, ranks_.size(), r));
    }
  }
  Index Group() const { return p_.heads / p_.kv_heads; }
  Message To(int rank) const { return {p_, *context_.options, ranks_.size(), ranks_.rank(), rank}; }
  Message FromRank(int rank) const {
    return {p_, *context_.options, ranks_.size(), rank, ranks_.rank()};
  }

  void PackInputs() const {
    std::byte* at = work_.send;
    const Shard own = ShardOf(p_, *context_.options, ranks_.size(), ranks_.rank());
    const auto pack = [&](const ConstTensor& t, std::byte* to, Index head, Index heads, Index rows,
                          Index columns) {
      Copy({t, head}, {PackedView(to, p_.dtype, heads, rows, columns)}, p_.batch, heads, rows,
           columns);
    };
    ForEachRank([&](int r, RowRun, RowRun, RowRun heads) {
      const Message m = To(r);
      pack(in_.q, at, heads.first * Group(), heads.count * Group(), own.query_rows(), p_.head_dim);
      pack(in_.k, at + m.q, heads.first, heads.count, own.key_rows(), p_.head_dim);
      pack(in_.v, at + m.q + m.k, heads.first, heads.count, own.key_rows(), p_.v_dim);
      at += work_.send_bytes[r] = m.inputs();
      work_.receive_bytes[r] = FromRank(r).inputs();
    });
  }

  void UnpackInputs() const {
    const std::byte* at = work_.receive;
    const auto unpack = [&](const std::byte* from, std::byte* whole, Index heads, Index all_rows,
                            RowRun rows, Index columns) {
      Copy({PackedView(from, p_.dtype, heads, rows.count, columns)},
           {PackedView(whole, p_.dtype, heads, all_rows, columns), 0, rows.first}, p_.batch, heads,
           rows.count, columns);
    };
    ForEachRank([&](int r, RowRun queries, RowRun keys, RowRun) {
      const Message m = FromRank(r);
      unpack(at, work_.q, part_.heads, p_.queries, queries, p_.head_dim);
      unpack(at + m.q, work_.k, part_.kv_heads, p_.keys, keys, p_.head_dim);
      unpack(at + m.q + m.k, work_.v, part_.kv_heads, p_.keys, keys, p_.v_dim);
      at += m.inputs();
    });
  }

  void Attend() const {
    Inputs in;
    in.q = PackedView(work_.q, p_.dtype, part_.heads, p_.queries, p_.head_dim);
    in.k = PackedView(work_.k, p_.dtype, part_.kv_heads, p_.keys, p_.head_dim);
    in.v = PackedView(work_.v, p_.dtype, part_.kv_heads, p_.keys, p_.v_dim);
    in.key_lengths = in_.key_lengths;
    Output out;
    out.out = {work_.out, p_.out_dtype, part_.heads * p_.queries * p_.v_dim, p_.queries * p_.v_dim,
               p_.v_dim};
    out.lse = out_.lse ? work_.lse : nullptr;
    RunInner(part_, in, out, context_.threads, work_.inner);
  }

  void PackOutput() const {
    std::byte* at = work_.send;
    ForEachRank([&](int r, RowRun queries, RowRun, RowRun) {
      const Message m = FromRank(r);  // back the way it came
      Copy({PackedView(work_.out, p_.out_dtype, part_.heads, p_.queries, p_.v_dim), 0,
            queries.first},
           {PackedView(at, p_.out_dtype, part_.heads, queries.count, p_.v_dim)}, p_.batch,
           part_.heads, queries.count, p_.v_dim);
      if (out_.lse)
        Copy({PackedView(work_.lse, DType::kF32, part_.heads, p_.queries, 1), 0, queries.first},
             {PackedView(at + m.out, DType::kF32, part_.heads, queries.count, 1)}, p_.batch,
             part_.heads, queries.count, 1);
      at += work_.send_bytes[r] = m.output(out_.lse);
      work_.receive_bytes[r] = To(r).output(out_.lse);
    });
  }

  void UnpackOutput() const {
    const std::byte* at = work_.receive;
    const Index rows = ShardOf(p_, *context_.options, ranks_.size(), ranks_.rank()).query_rows();
    ForEachRank([&](int r, RowRun, RowRun, RowRun kv_heads) {
      const Message m = To(r);
      const Index first = kv_heads.first * Group(), heads = kv_heads.count * Group();
      Copy({PackedView(at, p_.out_dtype, heads, rows, p_.v_dim)}, {out_.out, first}, p_.batch,
           heads, rows, p_.v_dim);
      if (out_.lse)
        Copy({PackedView(at + m.out, DType::kF32, heads, rows, 1)},
             {PackedView(out_.lse, DType::kF32, p_.heads, rows, 1), first}, p_.batch, heads, rows,
             1);
      at += m.output(out_.lse);
    });
  }

  const Problem& p_;
  const Inputs& in_;
  const Output& out_;
  const Context& context_;
  Ranks& ranks_;
  const Problem part_;
  Work work_;
};

std::string Refuse(const Problem& p, const Options&) {
  if (p.has_bias) return "bias: as large as queries x keys, it is not sharded";
  return InnerKernel().refuse(p, InnerOptions());
}

std::string RefuseRanks(const Problem& p, const Options&, int ranks) {
  if (p.kv_heads >= ranks) return "";
  return "kv_heads: whole heads are dealt out, and " + std::to_string(p.kv_heads) +
         " are fewer than the " + std::to_string(ranks) + " ranks";
}

std::size_t Workspace(const Problem& p, const Options& options, int threads, int ranks, int rank) {
  Work work;
  return Work::Lay(p, options, threads, ranks, rank, nullptr, &work);
}

double BytesSent(const Problem& p, const Options& options, int ranks) {
  double bytes = 0;
  for (int r = 0; r < ranks; ++r)
    for (int t = 0; t < ranks; ++t) {
      const Message m(p, options, ranks, r, t);
      if (r != t) bytes += static_cast<double>(m.inputs() + m.output(false));
    }
  return bytes;
}

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  Ranks& ranks = Ranks::Mine();
  ranks.NoteRun();
  if (ranks.size() > 1) return UlyssesPass(p, in, out, context, &ranks).Run();
  ranks.Time(&Ranks::Parts::compute_ns,
             [&] { RunInner(p, in, out, context.threads, context.workspace); });
}

ATTN_KERNEL(
        .name = "ulysses", .idea = "one sequence over ranks: heads dealt out by all-to-all",
        .provides = kLse, .refuse = Refuse,
        .executed = [](const Problem& p,
                       const Options&) { return InnerKernel().executed(p, InnerOptions()); },
        .workspace =
            [](const Problem& p, const Options&, int threads) {
              return InnerKernel().workspace(p, InnerOptions(), threads);
            },
        .run = Run, .target = [] { return InnerKernel().target(); });

ATTN_OVER_RANKS("ulysses", {.refuse = RefuseRanks,
                            .shard = ShardOf,
                            .workspace = Workspace,
                            .bytes_sent = BytesSent});

}  // namespace
}  // namespace attnbench
