// SPDX-License-Identifier: Apache-2.0
// flash: online softmax over blocks of keys; scores never leave the first-level cache, and keys
// that no query of a block sees are skipped. SIMD by Highway's dynamic dispatch; the engine is
// simd/attend-inl.h, its pieces tiles-inl.h, exp2-inl.h, transpose-inl.h.
//
// What was tried, on Zen 4 (medians of rounds that alternate the variants in one process, beside an
// FMA probe, everything else on the machine frozen; before the first two: best of a second):
// - Tiles of scores in one routine, their rows addressed by two pointers and two strides
//   (tiles-inl.h): with a pointer a row the compiler moved addresses between general and vector
//   registers, each in the place of a multiply-add. Hot in L1 the scores went from 91 to 97 % of
//   the peak in f32 (d = 64), from 82 to 94 % in bf16. On AVX2, whose unrolled loops had spilled an
//   accumulator a tile, the whole from 78 to 83 % at d = 64, from 83 to 89 % at d = 128.
// - 2^x by a table of sixteenths: f32 +0.2 ... 0.7 %, bf16 +1.5 ... 3 % over the plain polynomials.
//   Degree 2 beside the table would be worth 0.3 % more in f32, for an error of 4e-7 instead of
//   1e-7. 32 entries take a permutation of two sources, which costs what they save.
// - Exponentials inside the next block's scores, where they are spread thinnest: f32 +1.8 %, bf16
//   +6 % over the block's own first output tile, in which they come so close together that
//   additions and shifts too take multiply-adds' places (7 cycles a vector instead of 4.6). On
//   AVX2, whose 16 registers hold no exponentials beside a tile of scores, they stay there.
// - The maximum of a tile's rows counted inside the next tile: bf16 +1 %, f32 +0.3 %.
// - A block's last step is done inside the next block's first scores, groups or not: 12 heads in
//   bf16, n = 64, 128: +4 ... 5 %, n = 2048 +0.2 %.
// - Lazy maximum: +2 ... 4 %, bf16 +6 %.
// - Reduction and exponent by vreduceps and vscalefps: 0 ... -4 %. 48 queries a block instead of
//   32: +1 % in bf16, 0 in f32.
// - Blocks of 64 keys: -1 %, of 96 -0.3 %, of 256 as 128. Lambdas of the tiles not inlined: 36 % of
//   peak.
// - k fetched a tile ahead: +0.2 %; a block's rows of q and out fetched during its last keys: no
//   difference at n <= 2048, -0.2 % with four rows a tile instead of one; all at once before they
//   are transposed: -1.5 % at n = 64.
// - The diagonal: 16 x 16 triangles are wasted, not 32 x 32 (simd/seen_run-inl.h): n = 256 causal
//   computes 1.06 times what it admits instead of 1.12, and a block has one step less.
// - Groups of blocks over one chunk of keys, the next chunk fetched meanwhile, at n = 8192: f32
//   d = 64 +1 ... 10 %, d = 128 +50 ... 80 % (causal +7), d = 256 +55 %: without, each block reads
//   all keys from the third level. Where keys and values fit the second: -0.5 ... -2 %, so not
//   there. Chunks of 256 or 512 KiB for 128: alike.
// What is left, f32, d = 64, n = 2048, of 100 cycles: 90.5 are the products' multiply-adds, 2.1 the
// exponentials' multiplications and 1.1 what they hold up, 1.2 + 0.6 the beginnings and ends of the
// tiles of scores and of outputs, 2 all that is not a tile (q in, out back, steps), the rest waits
// for the second level.
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
// The engine's form of 2^x; 0 if it does not have this one.
int ExpForm(DType dtype, bool table, int degree) {
  const bool bf16 = dtype == DType::kBF16;
  const bool has = bf16 && kNativeBF16 ? (table ? degree == 1 : degree == 3 || degree == 5)
                   : kHasExpTable      ? (table ? degree == 2 || degree == 3 : degree == 5)
                                       : !table && (degree == 5 || (bf16 && degree == 3));
  return has ? (table ? kByTable : 0) + degree : 0;
}

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
HWY_EXPORT(ExpForm);

// Of what is left to the engine, 0.
int Form(const Problem& p, const Options& options) {
  const bool table = options["exp_table"] != 0;
  Index degree = options["exp_degree"];
  if (!degree && !table) degree = p.dtype == DType::kBF16 ? 3 : 5;
  return degree ? HWY_DYNAMIC_DISPATCH(ExpForm)(p.dtype, table, static_cast<int>(degree)) : 0;
}

AttendOptions OptionsOf(const Problem& p, const Options& options) {
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
          .exp_form = Form(p, options),
          .lazy_max = options["lazy_max"] != 0,
          .pipelining = options["pipelining"] != 0,
          .prefetch = options["prefetch"] != 0,
          .pack = options["pack"] != 0,
          .tile_columns = static_cast<int>(options["tile_columns"])};
}

std::string Refuse(const Problem& p, const Options& options) {
  if (p.keys >= std::numeric_limits<std::int32_t>::max()) return "2^31 keys or more";
  if (options["exp_degree"] != 0 && Form(p, options) == 0) {
    return "exp_degree " + std::to_string(options["exp_degree"]) + " with exp_table " +
           std::to_string(options["exp_table"]) +
           " is not served: not exact enough or not compiled for " + std::string(Name(p.dtype)) +
           " on " + DispatchedTarget();
  }
  return Unserved(p, {.bf16 = true, .bias = true, .key_lengths = true});
}

ATTN_KERNEL(
        .name = "flash", .idea = "online softmax in register tiles, queries in lanes",
        .provides = kLse,
        .options =
            {{"key_block", 128, 16, 1024, "keys whose scores are in flight at once"},
             {"group", 0, 0, kMostBlocks,
              "blocks of queries that take turns at a chunk of the keys; 0: what the cache holds"},
             {"exp_table", 1, 0, 1, "1: 2^x by a table of sixteenths, where a register holds it"},
             {"exp_degree", 0, 0, 5,
              "degree of 2^x's polynomial: by the table bf16 1, f32 2 or 3, else bf16 3 or 5, f32 "
              "5"},
             {"lazy_max", 1, 0, 1, "1: rescale only when a score passes the maximum by 2^16"},
             {"pipelining", 1, 0, 1,
              "1: exponentials inside the next block's scores (f32: on AVX-512)"},
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
