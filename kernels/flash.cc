// SPDX-License-Identifier: Apache-2.0
// flash: online softmax over blocks of keys; scores never leave the first-level cache, and keys
// that no query of a block sees are skipped. SIMD by Highway's dynamic dispatch; the engine is
// simd/attend-inl.h, its pieces tiles-inl.h, exp2-inl.h, transpose-inl.h.
//
// What was tried, on Zen 4 (best of a second, beside an FMA probe; the machine was shared):
// - Exponentials of f32 inside the first output tile, one block of scores in flight instead of two
//   (which do not fit the first level beside k, v, q and the output), blocks of 128 keys, k fetched
//   a tile ahead: dense +4.6 / +3.0 %, causal +4.6 / +4.2 % at n = 2048, d = 64 / 128, against
//   exponentials inside the next block's scores and 64 keys; on AVX2, whose 16 registers they made
//   spill accumulators, +3 / +10 %, causal +3 %. In bf16 it loses 3 ... 5 % at d = 64 (more
//   exponentials than one tile can hide): there they stay inside the next block's scores, which is
//   worth 3 ... 7 % over a pass of their own.
// - Of that, k a tile ahead is worth 1 % dense, 1 ... 2 % causal. v a step ahead, too: -1 ... -2 %.
// - Lazy maximum: +2 ... 4 %, bf16 +6 %. Degree 3 for degree 5 in f32: +1 %, for an error of 6e-5:
//   not worth it; in bf16 2 ... 3 %.
// - bf16's half unit for rounding inside the polynomial's constant instead of two additions a pair:
//   dense +2 ... 3 % at d = 64, n = 2048, +1 % at n = 128, 0 at d = 128. Reduction and exponent by
//   vreduceps and vscalefps: 0 ... -4 %. 48 queries a block instead of 32: +1 % in bf16, 0 in f32.
// - Blocks of 64 keys: -1 ... -3 %, bf16 dense 0 ... -4 %; of 32: -2 ... -5 %; of 256: as 128.
//   Lambdas of the tiles not inlined: 36 % of peak.
// - Fetching a block's rows of q and out all at once before they are transposed: -1.5 % at n = 64;
//   a few at a time during the block before (prefetch): no difference, none lost.
// - The diagonal: 16 x 16 triangles are wasted, not 32 x 32 (simd/seen_run-inl.h): n = 256 causal
//   computes 1.06 times what it admits instead of 1.12, and a block has one step less.
// - Groups of blocks over one chunk of keys, the next chunk fetched meanwhile, at n = 8192: f32
//   d = 64 +1 ... 10 %, d = 128 +50 ... 80 % (causal +7), d = 256 +55 %: without, each block reads
//   all keys from the third level. Where keys and values fit the second: -0.5 ... -2 %, so not
//   there. Chunks of 256 or 512 KiB for 128: alike.
//
// Papers: Dao et al. 2022 (FlashAttention); Milakov and Gimelshein 2018 (online softmax).
// Cost: 2 n^2 (d + d_v) flops and n^2 exponentials a head, half that if causal; O(d) memory a
// thread beside the blocks in flight.
#include "kernels/simd/key_runs.h"
#include "kernels/simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/flash.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/block_pass-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

struct FlashRuns {
  template <class Run>
  void operator()(const Problem& p, Index first, int rows, Index key_limit, LaneMask* mask,
                  Run run) const {
    ForEachKeyRun(p, first, rows, key_limit, mask, run);
  }
};

std::size_t FlashWorkspace(const Problem& p, const AttendOptions& options, int threads) {
  return AttendBlocksWorkspace(p, options, threads);
}
void FlashRun(const Problem& p, const Inputs& in, const Output& out, const AttendOptions& options,
              const Context& context) {
  AttendBlocks(p, in, out, options, context, FlashRuns());
}
Cost FlashCost(const Problem& p) { return AttendBlocksCost(p, FlashRuns()); }
int QueriesOfABlock() { return kQueries; }

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {
namespace {

HWY_EXPORT(FlashRun);
HWY_EXPORT(FlashWorkspace);
HWY_EXPORT(FlashCost);
HWY_EXPORT(QueriesOfABlock);

// Degree 3 errs by 7.5e-5: nothing beside bf16's rounding of the probabilities, 2e-3.
AttendOptions OptionsOf(const Problem& p, const Options& options) {
  const Index degree = options["exp_degree"];
  // Of a second-level cache of 1 MiB or more: a chunk of keys, the next one, and the group. Heads
  // that fit there need no group.
  constexpr Index kCache = 1 << 20, kChunkBytes = 128 << 10, kGroupBytes = 256 << 10;
  const Index width = p.head_dim + p.v_dim, given = options["group"];
  const Index block_bytes = 4 * HWY_DYNAMIC_DISPATCH(QueriesOfABlock)() * width;
  const Index fitting = std::clamp<Index>(kGroupBytes / block_bytes, 1, kMostBlocks);
  const bool near = p.keys * width * static_cast<Index>(SizeOf(p.dtype)) <= kCache;
  return {.key_block = options["key_block"],
          .group = static_cast<int>(given  ? given
                                    : near ? 1
                                           : fitting),
          .chunk_bytes = kChunkBytes,
          .exp_degree = static_cast<int>(degree                    ? degree
                                         : p.dtype == DType::kBF16 ? 3
                                                                   : 5),
          .lazy_max = options["lazy_max"] != 0,
          .pipelining = options["pipelining"] != 0,
          .prefetch = options["prefetch"] != 0,
          .pack = options["pack"] != 0,
          .tile_columns = static_cast<int>(options["tile_columns"])};
}

std::string Refuse(const Problem& p, const Options& options) {
  if (p.keys >= std::numeric_limits<std::int32_t>::max()) return "2^31 keys or more";
  const Index degree = options["exp_degree"], least = p.dtype == DType::kBF16 ? 3 : 5;
  if (degree != 0 && degree < least)
    return "exp_degree must be 0 or at least " + std::to_string(least) + ", is " +
           std::to_string(degree);
  return Unserved(p, {.bf16 = true, .bias = true, .key_lengths = true});
}

ATTN_KERNEL(
        .name = "flash", .idea = "online softmax in register tiles, queries in lanes",
        .provides = kLse,
        .options =
            {{"key_block", 128, 16, 1024, "keys whose scores are in flight at once"},
             {"group", 0, 0, kMostBlocks,
              "blocks of queries that take turns at a chunk of the keys; 0: what the cache holds"},
             {"exp_degree", 0, 0, 5,
              "degree of 2^x's polynomial, bf16 3 ... 5, f32 5; 0: the least"},
             {"lazy_max", 1, 0, 1, "1: rescale only when a score passes the maximum by 2^16"},
             {"pipelining", 1, 0, 1, "1: bf16's exponentials inside the next block's scores"},
             {"prefetch", 1, 0, 1,
              "1: fetch k a tile ahead; the next block's q and this one's out"},
             {"pack", 0, 0, 1, "1: copy k and v into dense rows first, also where not needed"},
             {"tile_columns", 8, 1, 8, "columns of v in a register tile of the output, at most"}},
        .refuse = Refuse,
        .executed = [](const Problem& p,
                       const Options&) { return HWY_DYNAMIC_DISPATCH(FlashCost)(p); },
        .workspace =
            [](const Problem& p, const Options& o, int threads) {
              return HWY_DYNAMIC_DISPATCH(FlashWorkspace)(p, OptionsOf(p, o), threads);
            },
        .run =
            [](const Problem& p, const Inputs& in, const Output& out, const Context& c) {
              HWY_DYNAMIC_DISPATCH(FlashRun)(p, in, out, OptionsOf(p, *c.options), c);
            },
        .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
#endif
