// SPDX-License-Identifier: Apache-2.0
// What the kernels on the engine (attend-inl.h) share: copies of keys and values where the engine
// does not read them in place, one engine a thread, blocks of queries claimed by threads. The
// result of a block does not depend on which thread does it.
//
// A kernel that is one pass over its blocks is AttendBlocks with the runs of its mask:
//   runs(problem, first, rows, key_limit, &mask, run)   // as ForEachKeyRun of key_runs.h

#if defined(ATTNBENCH_KERNELS_SIMD_BLOCK_PASS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_BLOCK_PASS_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_BLOCK_PASS_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_BLOCK_PASS_INL_H_
#endif

#include <omp.h>

#include "hwy/highway.h"
#include "kernels/simd/attend-inl.h"
#include "kernels/simd/key_store-inl.h"
#include "kernels/simd/on_threads.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

// f of a value of the type that the problem's elements are computed as.
template <class F>
auto WithElement([[maybe_unused]] const Problem& p, F f) {
#if HWY_TARGET <= HWY_AVX3_ZEN4
  if (p.dtype == DType::kBF16) return f(BFloat16());
#endif
  return f(float());
}

// Query-key pairs that `runs` of a block make the engine compute.
template <class Runs>
double ComputedPairs(int rows, Runs runs) {
  double pairs = 0;
  LaneMask mask;
  runs(&mask, [&](Index begin, Index end, const LaneMask* m) {
    pairs += Seen<1>(begin, end, m, rows).Pairs();
  });
  return pairs;
}

struct QueryRows {
  Index head, first;
  int rows;
  Index next;  // the first query of what probably comes after it
};

template <class T>
class BlockPass {
 public:
  BlockPass(const Problem& p, const AttendOptions& options, Arena* arena)
      : p_(p),
        options_(options),
        rows_(KeyStore<T>::Even(p.keys)),
        keys_(KeyStore<T>::Take(p, p.batch * p.kv_heads * rows_, options.pack, arena)) {}

  std::size_t EngineBytes() const { return Attender<T>::Bytes(p_, options_); }

  // The calling thread's engine, of those from `engines` on.
  Attender<T> Engine(const Inputs& in, const Output& out, std::byte* engines) const {
    return {p_, in, out, options_, engines + omp_get_thread_num() * EngineBytes()};
  }
  static Index KeyLimit(const Problem& p, const Inputs& in, Index b) {
    return in.key_lengths ? in.key_lengths[b] : p.keys;
  }
  KeySource<T> Keys(const Inputs& in, Index b, Index g) const {
    return keys_.At(p_, (b * p_.kv_heads + g) * rows_).Source(p_, in, b, g);
  }

  // The copies, if any. By all threads of a parallel region, which wait for them here.
  void CopyKeys(const Inputs& in) const {
    if (!keys_.k && !keys_.v) return;
    constexpr Index kChunk = 128;
    const Index chunks = (p_.keys + kChunk - 1) / kChunk;
#pragma omp for schedule(static)
    for (Index i = 0; i < p_.batch * p_.kv_heads * chunks; ++i) {
      const Index head = i / chunks, b = head / p_.kv_heads, begin = i % chunks * kChunk;
      keys_.At(p_, head * rows_)
          .Fill(p_, in, b, head % p_.kv_heads, 0, 1, begin,
                std::min(begin + kChunk, KeyLimit(p_, in, b)));
    }
  }

  // All blocks, by all threads of a parallel region; none waits for the others. Where late queries
  // see the most keys, the long blocks come first; else in the order of the keys, which is how
  // memory is fetched ahead. Neighbours, whose keys overlap, are claimed together where there are
  // many. f(batch, head, first, rows).
  template <class F>
  void ForEachBlock(F f) const {
    ForEachGroup(1, [&](Index b, const QueryRows* blocks, int) {
      f(b, blocks->head, blocks->first, blocks->rows);
    });
  }

  // The same for groups of at most `most` blocks that share their K/V head, smaller where threads
  // are many. f(batch, blocks, count).
  template <class F>
  void ForEachGroup(int most, F f) const {
    const Index blocks = (p_.queries + kQueries - 1) / kQueries;
    const Index heads = p_.heads / p_.kv_heads, shared = heads * blocks;  // by a K/V head
    const Index all = p_.batch * p_.kv_heads * shared;
    const Index each = std::clamp<Index>(all / (4 * omp_get_num_threads()), 1, most);
    const Index groups = (shared + each - 1) / each;
    const bool longest_last = p_.mask.causal && p_.mask.pattern == Mask::Pattern::kFull;
    const Index claim = each > 1 ? 1 : std::clamp<Index>(all / (32 * omp_get_num_threads()), 1, 4);
#pragma omp for schedule(dynamic, claim) nowait
    for (Index item = 0; item < p_.batch * p_.kv_heads * groups; ++item) {
      const Index unit = item / groups, group = item % groups;
      const Index begin = group * shared / groups, end = (group + 1) * shared / groups;
      const Index ahead = longest_last ? begin - end : end - begin;
      QueryRows rows[kMostBlocks];
      int count = 0;
      for (Index i = begin; i < end; ++i, ++count) {
        const Index block = longest_last ? blocks - 1 - i % blocks : i % blocks;
        const Index first = block * kQueries;
        rows[count] = {unit % p_.kv_heads * heads + i / blocks, first,
                       static_cast<int>(std::min<Index>(kQueries, p_.queries - first)),
                       (block + ahead) * kQueries};
      }
      f(unit / p_.kv_heads, rows, count);
    }
  }

 private:
  const Problem& p_;
  const AttendOptions options_;
  const Index rows_;  // of one head
  const KeyStore<T> keys_;
};

// A group's blocks take turns at chunks of the keys: the same chunks whatever the group, so that
// the result does not depend on it. A short rest is done with the chunk before it.
template <class T, class Runs>
void AttendGroup(const Problem& p, const AttendOptions& options, Runs runs,
                 const KeySource<T>& keys, Index limit, Index b, const QueryRows* blocks, int count,
                 LaneMask* mask, Attender<T>* engine) {
  const Index least = KeyBlock(options);
  const Index row_bytes = (p.head_dim + p.v_dim) * static_cast<Index>(sizeof(T));
  const Index chunk = options.chunk_bytes
                          ? std::max<Index>(1, options.chunk_bytes / row_bytes / least) * least
                          : limit;
  bool more[kMostBlocks];
  int slots[kMostBlocks];
  for (int i = 0; i < count; ++i) slots[i] = engine->FreeSlot(i);
  for (int i = 0; i < count; ++i) {
    engine->Open(slots[i], b, blocks[i].head, blocks[i].first, blocks[i].rows);
    more[i] = true;
  }
  for (Index at = 0; at < limit; at += chunk) {
    const Index later = at + chunk < limit ? at + chunk : 0, share = (chunk + count - 1) / count;
    for (int i = 0; i < count; ++i) {
      if (!more[i]) continue;
      more[i] = false;
      engine->Resume(slots[i]);
      if (count > 1) {
        engine->FetchLater(keys, std::min(later + i * share, limit),
                           std::min(later + (i + 1) * share, limit), (kRows + count - 1) / count);
      }
      runs(p, blocks[i].first, blocks[i].rows, limit, mask,
           [&](Index begin, Index end, const LaneMask* m) {
             const bool whole = end < at + chunk + least;
             if (!whole || begin >= at + chunk) more[i] = true;
             if (begin >= at + chunk || (begin < at && end < at + least)) return;
             if (!more[i]) engine->ExpectEnd(blocks[i].next);
             engine->Attend(keys, std::max(begin, at), whole ? end : at + chunk, m);
           });
      if (!more[i]) engine->End();
    }
  }
  for (int i = 0; i < count; ++i) {
    if (!more[i]) continue;
    engine->Resume(slots[i]);
    engine->End();
  }
}

template <class Runs>
void AttendBlocks(const Problem& p, const Inputs& in, const Output& out,
                  const AttendOptions& options, const Context& context, Runs runs) {
  WithElement(p, [&, runs](auto element) {
    using T = decltype(element);
    Arena arena(context.workspace);
    const BlockPass<T> pass(p, options, &arena);
    std::byte* const engines = arena.Take<std::byte>(0);
    OnThreads(context.threads, [&](int) {
      pass.CopyKeys(in);
      Attender<T> engine = pass.Engine(in, out, engines);
      LaneMask mask;
      pass.ForEachGroup(options.group, [&](Index b, const QueryRows* blocks, int count) {
        const Index limit = pass.KeyLimit(p, in, b);
        AttendGroup(p, options, runs, pass.Keys(in, b, p.KvHead(blocks->head)), limit, b, blocks,
                    count, &mask, &engine);
      });
      engine.Flush();
    });
  });
}

inline std::size_t AttendBlocksWorkspace(const Problem& p, const AttendOptions& options,
                                         int threads) {
  return WithElement(p, [&](auto element) {
    Arena arena;
    const BlockPass<decltype(element)> pass(p, options, &arena);
    return arena.bytes() + threads * pass.EngineBytes();
  });
}

// What AttendBlocks does, waste included.
template <class Runs>
Cost AttendBlocksCost(const Problem& p, Runs runs) {
  double pairs = 0;
  for (Index first = 0; first < p.queries; first += kQueries) {
    const int rows = static_cast<int>(std::min<Index>(kQueries, p.queries - first));
    pairs += ComputedPairs(
        rows, [&](LaneMask* mask, auto run) { runs(p, first, rows, p.keys, mask, run); });
  }
  pairs *= static_cast<double>(p.batch * p.heads);
  Cost cost = p.Useful();
  cost.flops = 2.0 * static_cast<double>(p.head_dim + p.v_dim) * pairs;
  cost.exps = pairs;
  return cost;
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
