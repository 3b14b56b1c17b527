// SPDX-License-Identifier: Apache-2.0
// local_window: each query sees the keys within `window` of its position, on both sides or, causal,
// on one, and the sinks. Only the blocks of keys that the band touches are computed.
//
// Papers: Beltagy et al. 2020 (Longformer: its w is 2 * window), Xiao et al. 2023 (StreamingLLM,
// sinks). Engine: simd/attend-inl.h, as in flash.
// Cost: 2 n w (d + d_v) flops a head, w the keys a query sees (window + 1 if causal, else
// 2 * window + 1), and as many more as blocks of queries stick out: a block of Q queries computes
// w + Q - 1 keys for each. O(d) memory a thread (bf16: a copy of the values).
//
// Tried: blocks of 32, 96 and 160 keys in flight are within 2 % of 64. What remains between this
// and dense flash is the edges: at Q = 32 a causal window of 64 computes 1.48 times what it admits,
// one of 256 1.12 times.
#include <omp.h>

#include "kernels/simd/sparse_runs.h"
#include "kernels/simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/local_window.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/attend-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace local_window {

AttendOptions EngineOptions(const Problem& p, const Options& options) {
  return {.key_block = options["key_block"], .exp_degree = p.dtype == DType::kBF16 ? 3 : 5};
}

template <class T>
std::size_t WorkspaceOf(const Problem& p, const Options& options, int threads) {
  Arena arena;
  KeyStore<T>::Take(p, p.batch * p.kv_heads * KeyStore<T>::Even(p.keys), false, &arena);
  return arena.bytes() + threads * Attender<T>::Bytes(p, EngineOptions(p, options));
}

template <class T>
void RunOf(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const AttendOptions options = EngineOptions(p, *context.options);
  Arena arena(context.workspace);
  const Index kv_heads = p.batch * p.kv_heads, store_rows = KeyStore<T>::Even(p.keys);
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
    // All blocks cost the same: a thread takes neighbours, whose keys overlap.
#pragma omp for schedule(static) nowait
    for (Index item = 0; item < p.batch * p.heads * blocks; ++item) {
      const Index b = item / (p.heads * blocks), h = item / blocks % p.heads, g = p.KvHead(h);
      const Index first = item % blocks * kQueries;
      const int rows = static_cast<int>(std::min<Index>(kQueries, p.queries - first));
      const KeySource<T> source =
          store.At(p, (b * p.kv_heads + g) * store_rows).Source(p, in, b, g);
      attender.Begin(b, h, first, rows);
      ForEachBandRun(p, first, rows, key_limit(b), kRows, &mask,
                     [&](Index begin, Index end, bool masked) {
                       attender.Attend(source, begin, end, masked ? &mask : nullptr);
                     });
    }
    attender.Flush();
  }
}

}  // namespace local_window

std::size_t LocalWindowWorkspace(const Problem& p, const Options& options, int threads) {
#if HWY_TARGET <= HWY_AVX3_ZEN4
  if (p.dtype == DType::kBF16) return local_window::WorkspaceOf<BFloat16>(p, options, threads);
#endif
  return local_window::WorkspaceOf<float>(p, options, threads);
}

void LocalWindowRun(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
#if HWY_TARGET <= HWY_AVX3_ZEN4
  if (p.dtype == DType::kBF16) return local_window::RunOf<BFloat16>(p, in, out, context);
#endif
  local_window::RunOf<float>(p, in, out, context);
}

Index LocalWindowQueryBlock() { return kQueries; }

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {
namespace {

HWY_EXPORT(LocalWindowRun);
HWY_EXPORT(LocalWindowWorkspace);
HWY_EXPORT(LocalWindowQueryBlock);

std::string Refuse(const Problem& p, const Options&) {
  if (p.keys >= std::numeric_limits<std::int32_t>::max()) return "2^31 keys or more";
  if (p.positions.key_step != 1) return "positions with key steps other than 1 are not served";
  return Unserved(
      p, {.patterns = {Mask::Pattern::kLocal}, .bf16 = true, .bias = true, .key_lengths = true});
}

Cost Executed(const Problem& p, const Options&) {
  const Index block = HWY_DYNAMIC_DISPATCH(LocalWindowQueryBlock)();
  LaneMask mask;
  double pairs = 0;
  for (Index first = 0; first < p.queries; first += block)
    ForEachBandRun(p, first, static_cast<int>(std::min(block, p.queries - first)), p.keys, 8, &mask,
                   [&](Index begin, Index end, bool) { pairs += block * (end - begin); });
  pairs *= p.batch * p.heads;
  Cost cost = p.Useful();
  cost.flops = 2.0 * (p.head_dim + p.v_dim) * pairs;
  cost.exps = pairs;
  return cost;
}

ATTN_KERNEL(
        .name = "local_window", .idea = "sliding window: only the blocks that the band touches",
        .provides = kLse,
        .options = {{"key_block", 64, 16, 1024, "keys whose scores are in flight at once"}},
        .refuse = Refuse, .executed = Executed,
        .workspace =
            [](const Problem& p, const Options& options, int threads) {
              return HWY_DYNAMIC_DISPATCH(LocalWindowWorkspace)(p, options, threads);
            },
        .run = [](const Problem& p, const Inputs& in, const Output& out,
                  const Context& c) { HWY_DYNAMIC_DISPATCH(LocalWindowRun)(p, in, out, c); },
        .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
#endif
