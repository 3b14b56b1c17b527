// SPDX-License-Identifier: Apache-2.0
// flash: online softmax over blocks of keys; scores never leave the first-level cache, and keys
// that no query of a block sees are skipped. SIMD by Highway's dynamic dispatch; the engine is
// simd/attend-inl.h, its pieces tiles-inl.h, exp2-inl.h, transpose-inl.h.
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

AttendOptions OptionsOf(const Options& options) {
  return {.key_block = options["key_block"],
          .exp_degree = static_cast<int>(options["exp_degree"]),
          .lazy_max = options["lazy_max"] != 0,
          .pipelining = options["pipelining"] != 0,
          .prefetch = options["prefetch"] != 0};
}

// bf16 without native dots is promoted to f32 once: keys and values of all heads.
struct Promoted {
  float *k = nullptr, *v = nullptr;
};
Promoted TakePromoted(const Problem& p, Arena* arena) {
  if (p.dtype == DType::kF32) return {};
  const std::size_t rows = p.batch * p.kv_heads * p.keys;
  return {arena->Take<float>(rows * p.head_dim), arena->Take<float>(rows * p.v_dim)};
}

std::size_t FlashWorkspace(const Problem& p, const Options& options, int threads) {
  Arena arena;
  TakePromoted(p, &arena);
  for (int t = 0; t < threads; ++t)
    arena.Take<std::byte>(Attender<float>::Bytes(p, OptionsOf(options)));
  return arena.bytes();
}

Index FlashQueryBlock() { return kQueries; }

void Promote(const ConstTensor& from, Index b, Index g, Index row, Index columns, float* to) {
  const BFloat16* x = from.Row<BFloat16>(b, g, row);
  for (Index c = 0; c < columns; ++c) to[c] = x[c].ToFloat();
}

void FlashRun(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const AttendOptions options = OptionsOf(*context.options);
  Arena arena(context.workspace);
  const Promoted promoted = TakePromoted(p, &arena);
  const std::size_t bytes = Attender<float>::Bytes(p, options);
  std::byte* const workspaces = arena.Take<std::byte>(0);
  const std::size_t workspace_step = (bytes + 63) / 64 * 64;
  const Index blocks = (p.queries + kQueries - 1) / kQueries;
  const Index kv_rows = p.batch * p.kv_heads * p.keys;

#pragma omp parallel num_threads(context.threads) if (context.threads > 1)
  {
    if (promoted.k) {
#pragma omp for schedule(static)
      for (Index r = 0; r < kv_rows; ++r) {
        const Index b = r / (p.kv_heads * p.keys), g = r / p.keys % p.kv_heads, j = r % p.keys;
        if (in.key_lengths && j >= in.key_lengths[b]) continue;
        Promote(in.k, b, g, j, p.head_dim, promoted.k + r * p.head_dim);
        Promote(in.v, b, g, j, p.v_dim, promoted.v + r * p.v_dim);
      }
    }
    Attender<float> attender(p, in, out, options,
                             workspaces + omp_get_thread_num() * workspace_step);
    LaneMask mask;
    // Late queries see the most keys when causal: the long blocks come first. Which thread does a
    // block changes nothing in its result.
#pragma omp for schedule(dynamic) nowait
    for (Index item = 0; item < p.batch * p.heads * blocks; ++item) {
      const Index b = item / (p.heads * blocks), h = item / blocks % p.heads, g = p.KvHead(h);
      const Index first = (blocks - 1 - item % blocks) * kQueries;
      const int rows = static_cast<int>(std::min<Index>(kQueries, p.queries - first));
      const Index head = (b * p.kv_heads + g) * p.keys;
      const KeySource<float> source =
          promoted.k ? KeySource<float>{promoted.k + head * p.head_dim, p.head_dim,
                                        promoted.v + head * p.v_dim, p.v_dim}
                     : KeySource<float>{in.k.Row<float>(b, g, 0), in.k.row_stride,
                                        in.v.Row<float>(b, g, 0), in.v.row_stride};
      attender.Begin(b, h, first, rows);
      ForEachKeyRun(p, first, rows, in.key_lengths ? in.key_lengths[b] : p.keys, kRows, &mask,
                    [&](Index begin, Index end, bool masked) {
                      attender.Attend(source, begin, end, masked ? &mask : nullptr);
                    });
    }
    attender.Flush();
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {
namespace {

HWY_EXPORT(FlashRun);
HWY_EXPORT(FlashWorkspace);
HWY_EXPORT(FlashQueryBlock);

std::string Refuse(const Problem& p, const Options&) {
  if (p.keys >= std::numeric_limits<std::int32_t>::max()) return "2^31 keys or more";
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
        .options = {{"key_block", 64, 16, 1024, "keys whose scores are in flight at once"},
                    {"exp_degree", 5, 3, 5, "degree of the polynomial of 2^x"},
                    {"lazy_max", 1, 0, 1,
                     "1: rescale only when a score passes the maximum by 2^16"},
                    {"pipelining", 1, 0, 1, "1: exponentials inside the next block's products"},
                    {"prefetch", 1, 0, 1, "1: fetch the next block's keys and values early"}},
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
