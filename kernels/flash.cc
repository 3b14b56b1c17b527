// SPDX-License-Identifier: Apache-2.0
// flash: online softmax over blocks of keys; scores never leave the first-level cache, and keys
// that no query of a block sees are skipped. SIMD by Highway's dynamic dispatch; the engine is
// simd/attend-inl.h, its pieces tiles-inl.h, exp2-inl.h, transpose-inl.h.
//
// What was tried, on Zen 4 (best of a second, beside an FMA probe; the machine was shared):
// - Exponentials inside the next block's products (pipelining): bf16 +3 ... 7 % at n = 256; f32
//   nothing, the core reorders as well by itself.
// - Lazy maximum: +3 %. Degree 3 for degree 5 in f32: +1 %, for an error of 6e-5: not worth it.
// - Blocks of 32 keys: -3 %; 64 ... 256 are alike. Lambdas of the tiles not inlined: 36 % of peak.
// - Fetching a block's rows of q and out before they are transposed (prefetch): -1.5 % at n = 64.
//
// Papers: Dao et al. 2022 (FlashAttention); Milakov and Gimelshein 2018 (online softmax).
// Cost: 2 n^2 (d + d_v) flops and n^2 exponentials a head, half that if causal; O(d) memory a
// thread beside the blocks in flight.
#include <omp.h>

#include "kernels/simd/key_runs.h"
#include "kernels/simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/flash.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/attend-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

// Degree 3 errs by 7.5e-5: nothing beside bf16's rounding of the probabilities, 2e-3.
AttendOptions OptionsOf(const Problem& p, const Options& options) {
  const Index degree = options["exp_degree"];
  return {.key_block = options["key_block"],
          .exp_degree = static_cast<int>(degree                    ? degree
                                         : p.dtype == DType::kBF16 ? 3
                                                                   : 5),
          .lazy_max = options["lazy_max"] != 0,
          .pipelining = options["pipelining"] != 0,
          .prefetch = options["prefetch"] != 0};
}

// Workspace: what keys and values of all heads are copied into (nothing for f32), then one engine
// a thread.
template <class T>
Index StoreRows(const Problem& p) {
  return KeyStore<T>::Even(p.keys);  // of one head
}

template <class T>
std::size_t WorkspaceOf(const Problem& p, const Options& options, int threads) {
  Arena arena;
  KeyStore<T>::Take(p, p.batch * p.kv_heads * StoreRows<T>(p), false, &arena);
  return arena.bytes() + threads * Attender<T>::Bytes(p, OptionsOf(p, options));
}

template <class T>
void RunOf(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const AttendOptions options = OptionsOf(p, *context.options);
  Arena arena(context.workspace);
  const Index store_rows = StoreRows<T>(p), kv_heads = p.batch * p.kv_heads;
  const auto store = KeyStore<T>::Take(p, kv_heads * store_rows, false, &arena);
  std::byte* const engines = arena.Take<std::byte>(0);
  const Index blocks = (p.queries + kQueries - 1) / kQueries;
  const auto key_limit = [&](Index b) { return in.key_lengths ? in.key_lengths[b] : p.keys; };

#pragma omp parallel num_threads(context.threads) if (context.threads > 1)
  {
    if (store.v) {
      constexpr Index kChunk = 128;
      const Index chunks = (p.keys + kChunk - 1) / kChunk;
#pragma omp for schedule(static)
      for (Index i = 0; i < kv_heads * chunks; ++i) {
        const Index head = i / chunks, b = head / p.kv_heads, begin = i % chunks * kChunk;
        store.At(p, head * store_rows)
            .Fill(p, in, b, head % p.kv_heads, 0, 1, begin, std::min(begin + kChunk, key_limit(b)));
      }
    }
    Attender<T> attender(p, in, out, options,
                         engines + omp_get_thread_num() * Attender<T>::Bytes(p, options));
    LaneMask mask;
    // Late queries see the most keys when causal: the long blocks come first. Which thread does a
    // block changes nothing in its result.
#pragma omp for schedule(dynamic) nowait
    for (Index item = 0; item < p.batch * p.heads * blocks; ++item) {
      const Index b = item / (p.heads * blocks), h = item / blocks % p.heads, g = p.KvHead(h);
      const Index first = (blocks - 1 - item % blocks) * kQueries;
      const int rows = static_cast<int>(std::min<Index>(kQueries, p.queries - first));
      const KeySource<T> source =
          store.At(p, (b * p.kv_heads + g) * store_rows).Source(p, in, b, g);
      attender.Begin(b, h, first, rows);
      ForEachKeyRun(p, first, rows, key_limit(b), kRows, &mask,
                    [&](Index begin, Index end, bool masked) {
                      attender.Attend(source, begin, end, masked ? &mask : nullptr);
                    });
    }
    attender.Flush();
  }
}

bool RunsAsBF16(const Problem& p) { return kNativeBF16 && p.dtype == DType::kBF16; }

std::size_t FlashWorkspace(const Problem& p, const Options& options, int threads) {
#if HWY_TARGET <= HWY_AVX3_ZEN4
  if (RunsAsBF16(p)) return WorkspaceOf<BFloat16>(p, options, threads);
#endif
  return WorkspaceOf<float>(p, options, threads);
}

void FlashRun(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
#if HWY_TARGET <= HWY_AVX3_ZEN4
  if (RunsAsBF16(p)) return RunOf<BFloat16>(p, in, out, context);
#endif
  RunOf<float>(p, in, out, context);
}

Index FlashQueryBlock() { return kQueries; }

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {
namespace {

HWY_EXPORT(FlashRun);
HWY_EXPORT(FlashWorkspace);
HWY_EXPORT(FlashQueryBlock);

std::string Refuse(const Problem& p, const Options& options) {
  if (p.keys >= std::numeric_limits<std::int32_t>::max()) return "2^31 keys or more";
  if (const Index degree = options["exp_degree"]; degree == 1 || degree == 2)
    return "exp_degree must be 0 or 3 ... 5";
  return Unserved(p, {.bf16 = true, .bias = true, .key_lengths = true});
}

// Whole blocks of queries, whole runs.
Cost Executed(const Problem& p, const Options&) {
  const Index block = HWY_DYNAMIC_DISPATCH(FlashQueryBlock)();
  LaneMask mask;
  double pairs = 0;
  for (Index first = 0; first < p.queries; first += block)
    ForEachKeyRun(p, first, static_cast<int>(std::min(block, p.queries - first)), p.keys, 8, &mask,
                  [&](Index begin, Index end, bool) { pairs += block * (end - begin); });
  pairs *= p.batch * p.heads;
  Cost cost = p.Useful();
  cost.flops = 2.0 * (p.head_dim + p.v_dim) * pairs;
  cost.exps = pairs;
  return cost;
}

ATTN_KERNEL(
        .name = "flash", .idea = "online softmax in register tiles, queries in lanes",
        .provides = kLse,
        .options =
            {{"key_block", 64, 16, 1024, "keys whose scores are in flight at once"},
             {"exp_degree", 0, 0, 5, "degree of 2^x's polynomial, 3 ... 5; 0: f32 5, bf16 3"},
             {"lazy_max", 1, 0, 1, "1: rescale only when a score passes the maximum by 2^16"},
             {"pipelining", 1, 0, 1, "1: exponentials inside the next block's products"},
             {"prefetch", 0, 0, 1, "1: fetch a block's rows of q and out before transposing"}},
        .refuse = Refuse, .executed = Executed,
        .workspace =
            [](const Problem& p, const Options& o, int threads) {
              return HWY_DYNAMIC_DISPATCH(FlashWorkspace)(p, o, threads);
            },
        .run = [](const Problem& p, const Inputs& in, const Output& out,
                  const Context& c) { HWY_DYNAMIC_DISPATCH(FlashRun)(p, in, out, c); },
        .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
#endif
