// SPDX-License-Identifier: Apache-2.0
// One problem, several processes ("ranks", as in MPI): each holds some rows of q, k and v and
// computes those rows of the output that belong to its rows of q. A kernel that can says so beside
// its ATTN_KERNEL:
//
//   ATTN_OVER_RANKS("ring", {.refuse = ..., .shard = ..., .workspace = ..., .bytes_sent = ...});
//
// Its run() sees the whole Problem, Inputs and Output with the rows of its own Shard only, and in
// Ranks::Mine() how to reach the others. A process on its own is a Ranks of size 1 that sends no
// message; whoever starts several derives from it, so that kernels depend on no library for that.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "kernels/contract/kernel.h"

namespace attnbench {

// Rows [first, first + count) of the whole sequence.
struct RowRun {
  Index first = 0, count = 0;
};

// Rows of one run, then those of the other. Either may be empty.
using Rows = std::array<RowRun, 2>;

// What one rank holds.
struct Shard {
  Rows queries, keys;

  Index query_rows() const { return queries[0].count + queries[1].count; }
  Index key_rows() const { return keys[0].count + keys[1].count; }
};

// Part `i` of `n` rows in `parts` even parts: no two differ by more than a row.
inline RowRun EvenPart(Index n, Index parts, Index i) {
  const Index first = n * i / parts;
  return {first, n * (i + 1) / parts - first};
}

class Ranks {
 public:
  // Where the time of the runs went, and what was sent, since the last Reset().
  struct Parts {
    double compute_ns = 0;   // attention of own queries over the keys at hand
    double progress_ns = 0;  // looking after messages in between
    double wait_ns = 0;      // nothing left to do but messages
    double merge_ns = 0;     // everything that one process alone would not have: packing, merging
    double bytes_sent = 0;   // to other ranks
    int runs = 0;
  };

  // Those that this process is one of; itself alone until Join().
  static Ranks& Mine() {
    static thread_local Ranks alone;
    return joined_ ? *joined_ : alone;
  }
  static void Join(Ranks* ranks) { joined_ = ranks; }

  Ranks() = default;
  Ranks(int rank, int size) : rank_(rank), size_(size) {}
  virtual ~Ranks() = default;
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // Begin a message; its buffer is left alone until Finish(). Messages between two ranks arrive in
  // the order in which they were begun, and both sides give the same size. Of no bytes: none.
  void Send(const void* data, std::size_t bytes, int to) {
    if (bytes == 0) return;
    parts_.bytes_sent += static_cast<double>(bytes);
    BeginSend(data, bytes, to);
  }
  void Receive(void* data, std::size_t bytes, int from) {
    if (bytes > 0) BeginReceive(data, bytes, from);
  }
  // Moves what was begun a bit further. A library without a thread of its own moves nothing while
  // nobody calls it, so that long computations call this now and then.
  void Progress() {
    if (size_ > 1) Time(&Parts::progress_ns, [this] { Test(); });
  }
  // Returns when all that was begun is done.
  void Finish() {
    if (size_ > 1) Time(&Parts::wait_ns, [this] { WaitAll(); });
  }
  // Block t of `send` goes to rank t, block s of `receive` comes from rank s; blocks lie one after
  // the other, of so many bytes (multiples of 4).
  void AllToAll(const void* send, const std::size_t* send_bytes, void* receive,
                const std::size_t* receive_bytes) {
    for (int t = 0; t < size_; ++t)
      if (t != rank_) parts_.bytes_sent += static_cast<double>(send_bytes[t]);
    Time(&Parts::wait_ns, [&] { ExchangeAll(send, send_bytes, receive, receive_bytes); });
  }

  // Does `work` and adds its time to the part.
  template <class Work>
  void Time(double Parts::* part, Work&& work) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    parts_.*part +=
        std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count();
  }
  void NoteRun() { ++parts_.runs; }  // at the beginning of each
  const Parts& parts() const { return parts_; }
  void Reset() { parts_ = {}; }

 protected:
  // Of a process on its own there is no one to reach.
  virtual void BeginSend(const void*, std::size_t, int) { std::abort(); }
  virtual void BeginReceive(void*, std::size_t, int) { std::abort(); }
  virtual void Test() { std::abort(); }
  virtual void WaitAll() { std::abort(); }
  virtual void ExchangeAll(const void*, const std::size_t*, void*, const std::size_t*) {
    std::abort();
  }

 private:
  static inline Ranks* joined_ = nullptr;
  const int rank_ = 0, size_ = 1;
  Parts parts_;
};

// What a kernel says of a problem that several ranks share; Kernel::workspace is that of one alone.
struct Distribution {
  // Empty when these ranks can share the problem (which Kernel::refuse accepts); else the reason.
  std::function<std::string(const Problem&, const Options&, int ranks)> refuse;
  // Every row of q, and every row of k and v, is in exactly one shard.
  std::function<Shard(const Problem&, const Options&, int ranks, int rank)> shard;
  // Bytes of workspace of one rank.
  std::function<std::size_t(const Problem&, const Options&, int threads, int ranks, int rank)>
      workspace;
  // Bytes that all ranks together send in one run: the algorithm's own count, which what was
  // really sent is compared with.
  std::function<double(const Problem&, const Options&, int ranks)> bytes_sent;
};

inline std::map<std::string_view, Distribution>& Distributions() {
  static std::map<std::string_view, Distribution> by_kernel;
  return by_kernel;
}
// Null for a kernel that runs in one process.
inline const Distribution* DistributionOf(const Kernel& kernel) {
  const auto it = Distributions().find(kernel.name);
  return it == Distributions().end() ? nullptr : &it->second;
}

#define ATTN_OVER_RANKS(kernel, ...)                   \
  [[maybe_unused]] static const bool attn_over_ranks = \
      ::attnbench::Distributions().emplace(kernel, ::attnbench::Distribution __VA_ARGS__).second

// What the kernels over ranks share beyond: the kernel that attends within a rank, and views.

inline const Kernel& InnerKernel() {
  static const Kernel& flash = *FindKernel("flash");
  return flash;
}
inline const Options& InnerOptions() {
  static const Options options(InnerKernel().options);
  return options;
}
inline void RunInner(const Problem& p, const Inputs& in, const Output& out, int threads,
                     std::byte* workspace) {
  InnerKernel().run(p, in, out,
                    {.threads = threads, .options = &InnerOptions(), .workspace = workspace});
}

// [batch][heads][rows][columns] without gaps.
inline ConstTensor PackedView(const void* data, DType dtype, Index heads, Index rows,
                              Index columns) {
  return {data, dtype, heads * rows * columns, rows * columns, columns};
}

// The same tensor seen from one of its rows on.
inline ConstTensor From(ConstTensor t, Index batch, Index head, Index row) {
  const Index offset = batch * t.batch_stride + head * t.head_stride + row * t.row_stride;
  t.data = static_cast<const std::byte*>(t.data) + offset * static_cast<Index>(SizeOf(t.dtype));
  return t;
}

}  // namespace attnbench
