// SPDX-License-Identifier: Apache-2.0
// local_window: each query sees the keys within `window` of its position, on both sides or, causal,
// on one, and the sinks. Only the blocks of keys that the band touches are computed.
//
// Papers: Beltagy et al. 2020 (Longformer: its w is 2 * window), Xiao et al. 2023 (StreamingLLM,
// sinks). Engine: simd/attend-inl.h, as in flash.
// Cost: 2 n w (d + d_v) flops a head, w the keys a query sees (window + 1 if causal, else
// 2 * window + 1), and as many more as vectors of queries stick out (simd/seen_run-inl.h): with L
// lanes a vector, w + L - 1 keys for each. O(d) memory a thread (bf16: a copy of the values).
//
// What remains between this and dense flash, at L = 16: a causal window of 64 computes 1.23 times
// what it admits, one of 256 1.06 times (cut by blocks of 32 queries instead: 1.48 and 1.12); and
// the transposes of queries and outputs, which few keys have to pay for. Tried and lost: the next
// block's keys fetched into the second-level cache meanwhile: 0 ... -3 % (d = 64, windows of 64 and
// 256, n = 512 ... 16384), and what it seemed to win at n = 4096 was won after other kernels only.
#include "kernels/simd/key_runs.h"
#include "kernels/simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/local_window.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/block_pass-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

struct WindowRuns {
  template <class Run>
  void operator()(const Problem& p, Index first, int rows, Index key_limit, LaneMask* mask,
                  Run run) const {
    ForEachBandRun(p, first, rows, key_limit, mask, run);
  }
};

std::size_t WindowWorkspace(const Problem& p, const AttendOptions& options, int threads) {
  return AttendBlocksWorkspace(p, options, threads);
}
void WindowRun(const Problem& p, const Inputs& in, const Output& out, const AttendOptions& options,
               const Context& context) {
  AttendBlocks(p, in, out, options, context, WindowRuns());
}
Cost WindowCost(const Problem& p) { return AttendBlocksCost(p, WindowRuns()); }

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {
namespace {

HWY_EXPORT(WindowRun);
HWY_EXPORT(WindowWorkspace);
HWY_EXPORT(WindowCost);

AttendOptions OptionsOf(const Options& options) { return {.key_block = options["key_block"]}; }

std::string Refuse(const Problem& p, const Options&) {
  if (p.keys >= std::numeric_limits<std::int32_t>::max()) return "2^31 keys or more";
  if (p.positions.key_step != 1) return "positions with key steps other than 1 are not served";
  return Unserved(
      p, {.patterns = {Mask::Pattern::kLocal}, .bf16 = true, .bias = true, .key_lengths = true});
}

ATTN_KERNEL(
        .name = "local_window", .idea = "sliding window: only the blocks that the band touches",
        .provides = kLse,
        .options = {{"key_block", 96, 16, 1024, "keys whose scores are in flight at once"}},
        .refuse = Refuse,
        .executed = [](const Problem& p,
                       const Options&) { return HWY_DYNAMIC_DISPATCH(WindowCost)(p); },
        .workspace =
            [](const Problem& p, const Options& o, int threads) {
              return HWY_DYNAMIC_DISPATCH(WindowWorkspace)(p, OptionsOf(o), threads);
            },
        .run =
            [](const Problem& p, const Inputs& in, const Output& out, const Context& c) {
              HWY_DYNAMIC_DISPATCH(WindowRun)(p, in, out, OptionsOf(*c.options), c);
            },
        .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
#endif
