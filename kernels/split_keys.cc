// SPDX-License-Identifier: Apache-2.0
// split_keys: decoding. A few queries against many keys: all query rows of a K/V head go through
// its keys together, so K and V are read once, and the keys are split over the threads, one head's
// too. Each part keeps its own maximum, sum and output; parts merge by log-sum-exp.
//
// Papers: Dao et al. 2023 (Flash-Decoding); Shazeer 2019, Ainslie et al. 2023 (grouped heads).
// Cost: 2 n (d + d_v) flops a query row and n (d + d_v) elements of K and V read once a K/V head
// (once per 64 query rows): bound by memory, until rows of queries give it arithmetic.
// Workspace: O(threads * 64 * (d + d_v)); none grows with n.
//
// The split: blocks of keys of all heads, end to end, are cut into as many equal stretches as there
// are threads. So at most one head ends and one begins within each stretch, the balance is even for
// any number of heads, and the result depends on the number of threads only.
// What a stretch does is simd/decode_engine-inl.h, its pieces decode_scores-inl.h,
// decode_weights-inl.h and decode_values-inl.h.
//
// Tried, on a Zen 4 core that reads 29 ... 34 GB/s from memory, about 52 at 34 MB (the size of its
// last-level cache) and 97 from that cache, and multiplies and adds at 118 GFLOP/s; the machine was
// shared, so that only ratios taken in one process count. Figures are fractions of the roof, from
// memory (134 MB) and, after a stroke, at 34 MB; d = 128.
// - Few rows are a matter of how K and V are read, not of arithmetic. A loop that reads line after
//   line without software's prefetches has the whole bandwidth under four multiply-adds a line.
//   Eight lines side by side have 8 GB/s; with a load of a line ahead, instead of a prefetch, 13.
// - The compiler loads a row's last line before its first: four to nine lines in its own order cost
//   three rows a fifth (0.81 / 0.67 against 0.98 / 0.80), so the order is held (InOrder).
// - Keys in a run, two rows: 16: 0.80 / 0.63, 64: 0.83 / 0.71, 512: 0.98 / 0.85, 2048: 1.01 / 0.90.
//   One row: 0.69 / 0.61 with 16, 0.99 / 0.91 with 2048. Three rows 0.98 / 0.78 and 1.09 / 0.84.
//   Runs of 64 and more lose to 16 only where V takes turns and rows are short: four rows in bf16
//   0.91 / 0.49 with 16, 0.68 / 0.46 with 2048.
// - V of four rows: two rows at a time, taking turns every 8 keys, 0.81 / 0.58; every 4 keys 0.71 /
//   0.61; every 8 and the next turn prefetched into the first-level cache 0.74 / 0.61; three rows
//   and then one 0.87 / 0.62. Two keys side by side for K and half rows for V, with software's
//   prefetches in bursts or not: 0.70 / 0.60, and no more than 24 GB/s.
// - Eight rows: prefetches 16 KiB ahead 0.75 / 0.79 in f32 and 0.70 / 0.72 in bf16, 32 KiB 0.85 /
//   0.85 and 0.79 / 0.79; of all that comes next, spread over what is computed now, 0.82 / 0.84 and
//   0.71 / 0.77. Runs of 32 keys instead of 128: 0.82 / 0.82 and 0.72 / 0.72. Into the first-level
//   cache: 12 GB/s where the second-level one gives 27; every other line 9.
// - Eight rows with whole vectors of K and a tree of shuffles over all lanes, four rows at a time:
//   54 GFLOP/s from memory; with rows in the blocks of a vector 88 and more. Four rows that way: a
//   load for every multiply-add takes 1.34 cycles on Zen 4, so they keep the tree, which costs 3 %
//   in f32 and 13 % in bf16, where it meets half as many multiply-adds.
// From caches, in fractions of the multiply-adds' peak, f32 and bf16 after a stroke:
// - To fill a panel's accumulators and to store them takes some 100 cycles: four rows in turns 0.72
// /
//   0.62, in panels as long as the run 0.86 / 0.78. From memory those read half rows, 0.72 / 0.79
//   of the roof even where the next turn is asked for in its order; turns 0.88 / 0.93. Whole rows,
//   with a quarter of the accumulators in memory: 0.75 / 0.69 (Zen 4 stores 32 bytes a cycle).
// - Weights made of a tile's logits at once: 24 cycles a vector between the multiply-adds, 10 in a
//   loop of their own; in bf16 two vectors at once and their sum by a dot with ones: 7.
// - Five rows as four and one: 0.72 / 0.68, as three and two 0.84 / 0.76.

#include <cmath>
#include <cstring>

#include "kernels/contract/kernel.h"
#include "kernels/simd/attend.h"
#include "kernels/simd/decode_units.h"
#include "kernels/simd/on_threads.h"
#include "kernels/simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/split_keys.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/decode_engine-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace decode {

constexpr float kLn2 = 0.693147180559945f;

std::size_t WorkspaceBytes(const Problem& p, const Options& options, int threads) {
  Arena arena;
  const Layout layout = LayoutOf(p, options, threads);
  arena.Take<Layout::Thread>(threads);
  for (int t = 0; t < threads; ++t) layout.Take(&arena, p);
  return arena.bytes();
}

// One stretch of the flattened blocks: `T` is the element type of the arithmetic.
template <class T>
class Stretch {
 public:
  Stretch(const Problem& p, const Inputs& in, const Output& out, const Layout& layout,
          const Layout::Thread& work)
      : p_(p), in_(in), out_(out), layout_(layout), work_(work), decoder_(p, in, layout, work) {}

  void Run(Index thread, Index threads) {
    const Index units = UnitCount(p_);
    Index total = 0;
    for (Index u = 0; u < units; ++u) total += BlocksOf(u);
    const Index from = total * thread / threads, to = total * (thread + 1) / threads;
    Index at = 0;
    for (Index u = 0; u < units && at < to; ++u) {
      const Index blocks = BlocksOf(u);
      const Index begin = std::max(from - at, Index{0}), end = std::min(to - at, blocks);
      if (begin < end) {
        const Part& part = work_.parts[begin > 0 ? 0 : end < blocks ? 1 : 2];
        decoder_.Attend(u, begin, end, part);
        if (begin == 0 && end == blocks) Write(u, part);
      }
      at += blocks;
    }
  }

  // After all stretches: the one in which a divided unit begins gathers its parts.
  void Merge(Index thread, Index threads, const Layout::Thread* all) {
    const Index units = UnitCount(p_);
    Index total = 0;
    for (Index u = 0; u < units; ++u) total += BlocksOf(u);
    const auto start = [&](Index t) { return total * t / threads; };
    Index at = 0;
    for (Index u = 0; u < units && at < start(thread + 1); ++u) {
      const Index end = at + BlocksOf(u);
      if (at >= start(thread) && end > start(thread + 1)) {
        const Unit unit = UnitAt(p_, u);
        for (Index t = thread + 1; t < threads && start(t) < end; ++t) {
          if (start(t) < start(t + 1)) Join(unit, all[t].parts[0], work_.parts[1]);
        }
        Write(u, work_.parts[1]);
      }
      at = end;
    }
  }

 private:
  Index BlocksOf(Index u) const { return decoder_.SpanOf(UnitAt(p_, u)).Blocks(layout_.key_block); }

  // into = into and from. A part that saw no key has reference -inf and adds nothing.
  void Join(const Unit& unit, const Part& from, const Part& into) const {
    for (Index r = 0; r < unit.rows; ++r) {
      const float reference = std::max(from.reference[r], into.reference[r]);
      const auto factor = [&](float x) { return x == kNegInf ? 0.0f : std::exp2(x - reference); };
      const float a = factor(into.reference[r]), b = factor(from.reference[r]);
      float* x = into.out + r * layout_.out_stride;
      const float* y = from.out + r * layout_.out_stride;
      for (Index c = 0; c < layout_.out_stride; ++c) x[c] = a * x[c] + b * y[c];
      into.sum[r] = a * into.sum[r] + b * from.sum[r];
      into.reference[r] = reference;
    }
  }

  void Write(Index u, const Part& part) const {
    const Unit unit = UnitAt(p_, u);
    for (Index r = 0; r < unit.rows; ++r) {
      const Index b = unit.batch, h = unit.Head(r), i = unit.Query(r);
      float* const row = part.out + r * layout_.out_stride;
      const bool none = part.reference[r] == kNegInf;
      if (!Divide(row, part.sum[r], none)) {
        RecomputeRow(p_, in_, out_, b, h, i);
        continue;
      }
      if (p_.out_dtype == DType::kBF16) {
        CopyRow<T>(row, p_.v_dim, out_.out.Row<BFloat16>(b, h, i));
      } else {
        CopyRow<T>(row, p_.v_dim, out_.out.Row<float>(b, h, i));
      }
      if (out_.lse)
        out_.lse[(b * p_.heads + h) * p_.queries + i] =
            none ? kNegInf : (std::log2(part.sum[r]) + part.reference[r]) * kLn2;
    }
  }
  // False when the row is not finite. `none`: it saw no key. Any other row's sum counts the key at
  // its reference, 2^-16 or more.
  bool Divide(float* row, float sum, bool none) const {
    const DF df;
    const VF factor = hn::Set(df, none ? 0.0f : 1.0f / sum);
    VF check = hn::Set(df, sum * 0.0f);
    for (Index c = 0; c < layout_.out_stride; c += kLanes) {
      const VF x = hn::Load(df, row + c);
      check = hn::MulAdd(x, hn::Zero(df), check);
      hn::Store(hn::Mul(x, factor), df, row + c);
    }
    return hn::AllTrue(df, hn::Eq(check, hn::Zero(df)));
  }

  const Problem& p_;
  const Inputs& in_;
  const Output& out_;
  const Layout& layout_;
  const Layout::Thread& work_;
  Decoder<T> decoder_;
};

template <class T>
void RunAs(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const Layout layout = LayoutOf(p, *context.options, context.threads);
  Arena arena(context.workspace);
  Layout::Thread* const work = arena.Take<Layout::Thread>(context.threads);
  for (int t = 0; t < context.threads; ++t) work[t] = layout.Take(&arena, p);
  OnThreads(context.threads, [&](int t) {
    Stretch<T> stretch(p, in, out, layout, work[t]);
    stretch.Run(t, context.threads);
    if (context.threads > 1) {
#pragma omp barrier
      stretch.Merge(t, context.threads, work);
    }
  });
}

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
#if HWY_NATIVE_DOT_BF16
  if (p.dtype == DType::kBF16) return RunAs<BF16>(p, in, out, context);
#endif
  RunAs<float>(p, in, out, context);
}

}  // namespace decode

void SplitKeysRun(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  decode::Run(p, in, out, context);
}
std::size_t SplitKeysWorkspace(const Problem& p, const Options& options, int threads) {
  return decode::WorkspaceBytes(p, options, threads);
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {
namespace {

HWY_EXPORT(SplitKeysRun);
HWY_EXPORT(SplitKeysWorkspace);

std::string Refuse(const Problem& p, const Options&) {
  if (p.positions.key_step != 1) return "positions with key steps other than 1 are not served";
  return Unserved(p, {.patterns = {Mask::Pattern::kFull, Mask::Pattern::kLocal},
                      .bf16 = true,
                      .key_lengths = true});
}

// All rows of a unit meet all keys that any of them sees.
Cost Executed(const Problem& p, const Options&) {
  double pairs = 0, keys = 0;
  for (Index u = 0; u < decode_units::UnitCount(p); ++u) {
    const decode_units::Unit unit = decode_units::UnitAt(p, u);
    const double span = decode_units::SpanOf(p, unit, p.keys).Keys();
    pairs += span * unit.rows;
    keys += span;
  }
  const double rows = static_cast<double>(p.batch) * p.heads * p.queries;
  Cost cost;
  cost.flops = 2.0 * (p.head_dim + p.v_dim) * pairs;
  cost.exps = pairs;
  cost.bytes = SizeOf(p.dtype) * (keys * (p.head_dim + p.v_dim) + rows * p.head_dim) +
               SizeOf(p.out_dtype) * rows * p.v_dim;
  return cost;
}

ATTN_KERNEL(
        .name = "split_keys",
        .idea = "decoding: a K/V head's query rows together, keys split over threads",
        .provides = kLse,
        .options = {{"key_block", 0, 0, 4096,
                     "keys whose logits are in flight at once; 0: by the rows of queries"},
                    {"from", 0, 0, 2,
                     "K and V are read from 1: a cache, 2: memory; 0: by their size"}},
        .refuse = Refuse, .executed = Executed,
        .workspace =
            [](const Problem& p, const Options& options, int threads) {
              return HWY_DYNAMIC_DISPATCH(SplitKeysWorkspace)(p, options, threads);
            },
        .run =
            [](const Problem& p, const Inputs& in, const Output& out, const Context& context) {
              HWY_DYNAMIC_DISPATCH(SplitKeysRun)(p, in, out, context);
            },
        .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
#endif
