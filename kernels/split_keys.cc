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
//
// Tried, on a Zen 4 core that reads 30 GB/s from memory and 88 from its caches:
// - Prefetching into the first-level cache: one row 16 GB/s instead of 24, eight rows 34 GFLOP/s as
//   without any. Into the second level, spread evenly over the arithmetic, eight rows reach 61; one
//   row alone 19, so it is left to the hardware.
// - One row with its query in registers, keys unrolled and every load kept apart: 14 GB/s instead
//   of 22 to 24. Which of the three did it was not separated.
#include <omp.h>

#include <cmath>
#include <cstring>

#include "kernels/contract/kernel.h"
#include "kernels/simd/attend.h"
#include "kernels/simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/split_keys.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/decode-inl.h"

#ifndef ATTNBENCH_KERNELS_SPLIT_KEYS_ONCE_
#define ATTNBENCH_KERNELS_SPLIT_KEYS_ONCE_
namespace attnbench {
namespace split_keys {

constexpr Index kUnitRows = 64;
constexpr float kLn2 = 0.693147180559945f;

Index RoundUp(Index x, Index to) { return (x + to - 1) / to * to; }

// Query rows that share a K/V head: row r is query first + r over the heads of the group, so that
// neighbours differ in head first and see the same keys.
struct Unit {
  Index batch, kv_head, first, rows;
  Index group;  // heads a K/V head
  Index Head(Index row) const { return kv_head * group + (first + row) % group; }
  Index Query(Index row) const { return (first + row) / group; }
};

Index UnitCount(const Problem& p) {
  const Index rows = p.heads / p.kv_heads * p.queries;
  return p.batch * p.kv_heads * ((rows + kUnitRows - 1) / kUnitRows);
}
Unit UnitAt(const Problem& p, Index index) {
  const Index group = p.heads / p.kv_heads, rows = group * p.queries;
  const Index units = (rows + kUnitRows - 1) / kUnitRows;
  const Index first = index % units * kUnitRows, head = index / units;
  return {head / p.kv_heads, head % p.kv_heads, first, std::min(kUnitRows, rows - first), group};
}

// The keys that any row of a unit sees: sinks, then the band; and those that all of them see.
struct Span {
  Index begin[2] = {0, 0}, end[2] = {0, 0};
  Index inner_begin = 0, inner_end = 0;
  Index Keys() const { return end[0] - begin[0] + end[1] - begin[1]; }
  Index Blocks(Index block) const {
    return std::max<Index>(
        1, (end[0] - begin[0] + block - 1) / block + (end[1] - begin[1] + block - 1) / block);
  }
  void Block(Index i, Index block, Index* from, Index* to) const {
    const Index first = (end[0] - begin[0] + block - 1) / block;
    const int part = i >= first;
    *from = begin[part] + (i - part * first) * block;
    *to = std::min(*from + block, end[part]);
  }
};
Span SpanOf(const Problem& p, const Unit& unit, Index key_limit) {
  Span s;
  Index sinks = 0, begin = key_limit, end = 0;
  s.inner_end = key_limit;
  for (Index i = unit.Query(0); i <= unit.Query(unit.rows - 1); ++i) {
    const AdmittedKeys a = p.Admitted(i, key_limit);
    sinks = std::max(sinks, a.sinks);
    s.inner_begin = std::max(s.inner_begin, a.band_begin);
    s.inner_end = std::min(s.inner_end, a.band_end);
    if (a.band_end == a.band_begin) continue;
    begin = std::min(begin, a.band_begin);
    end = std::max(end, a.band_end);
  }
  if (begin <= sinks) begin = 0, end = std::max(end, sinks), sinks = 0;
  s.end[0] = sinks, s.begin[1] = std::min(begin, end), s.end[1] = end;
  return s;
}

// What a stretch knows of a unit's rows when it leaves it.
struct Part {
  float* out;        // [kUnitRows][out_stride], not divided by sum
  float* reference;  // [kUnitRows], log2
  float* sum;        // [kUnitRows]
};

struct Layout {
  Index q_stride, out_stride, key_block;
  bool widen;  // bf16 that must become f32 first

  struct Thread {
    std::byte* q;
    float *reference, *sum;  // a vector a row block
    float* logits;           // [kUnitRows][key_block]: then weights
    float* correction;       // [kUnitRows]: of the output so far, for a new reference
    float *k, *v;            // widened
    Part parts[3];           // handed over by the stretch before; to the one after; whole
  };
  Thread Take(Arena* arena, const Problem& p) const {
    Thread t;
    t.q = arena->Take<std::byte>(kUnitRows * q_stride * 4);
    t.reference = arena->Take<float>(kUnitRows * 16);
    t.sum = arena->Take<float>(kUnitRows * 16);
    t.logits = arena->Take<float>(kUnitRows * RoundUp(key_block, 16));
    t.correction = arena->Take<float>(kUnitRows);
    t.k = widen ? arena->Take<float>(key_block * p.head_dim) : nullptr;
    t.v = widen ? arena->Take<float>(key_block * p.v_dim) : nullptr;
    for (Part& part : t.parts) {
      part.out = arena->Take<float>(kUnitRows * out_stride);
      part.reference = arena->Take<float>(kUnitRows);
      part.sum = arena->Take<float>(kUnitRows);
    }
    return t;
  }
};

}  // namespace split_keys
}  // namespace attnbench
#endif

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace decode {
using namespace split_keys;  // NOLINT

Layout LayoutOf(const Problem& p, const Options& options) {
  Layout l;
  l.q_stride = RoundUp(p.head_dim, 2 * kLanes);
  l.out_stride = RoundUp(p.v_dim, 2 * kLanes);
  // 64 KiB of K: long enough for the hardware's prefetchers, short enough for the second-level
  // cache.
  const Index row = std::max(p.head_dim, p.v_dim) * static_cast<Index>(SizeOf(p.dtype));
  l.key_block = options["key_block"] ? RoundUp(options["key_block"], 16)
                                     : std::clamp<Index>(65536 / row / 16 * 16, 32, 512);
  l.widen = p.dtype == DType::kBF16 && !HWY_NATIVE_DOT_BF16;
  return l;
}

std::size_t WorkspaceBytes(const Problem& p, const Options& options, int threads) {
  Arena arena;
  const Layout layout = LayoutOf(p, options);
  arena.Take<Layout::Thread>(threads);
  for (int t = 0; t < threads; ++t) layout.Take(&arena, p);
  return arena.bytes();
}

void Widen(const BFloat16* from, Index columns, float* to) {
  for (Index c = 0; c < columns; ++c) to[c] = from[c].ToFloat();
}

// One stretch of the flattened blocks: `T` is the element type of the arithmetic.
template <class T>
class Stretch {
 public:
  Stretch(const Problem& p, const Inputs& in, const Output& out, const Options& options,
          const Layout::Thread& work)
      : p_(p), in_(in), out_(out), layout_(LayoutOf(p, options)), work_(work) {
    // The sign of the scale goes into q, which keeps the maximum a maximum; a scale of 0 must not
    // meet the -inf of masked logits.
    const double scale = p.scale * 1.4426950408889634;
    scale_ = std::max(static_cast<float>(std::abs(scale)), 1e-37f);
    negative_ = scale < 0;
  }

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
        Attend(u, begin, end, part);
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
  using Weight = typename Values<T>::Weight;

  Index KeyLimit(const Unit& unit) const {
    return in_.key_lengths ? in_.key_lengths[unit.batch] : p_.keys;
  }
  Index BlocksOf(Index u) const {
    const Unit unit = UnitAt(p_, u);
    return SpanOf(p_, unit, KeyLimit(unit)).Blocks(layout_.key_block);
  }
  T* Q(Index row) const { return reinterpret_cast<T*>(work_.q) + row * layout_.q_stride; }

  void PackQueries(const Unit& unit) {
    std::memset(work_.q, 0, unit.rows * layout_.q_stride * sizeof(T));
    for (Index row = 0; row < unit.rows; ++row) {
      T* to = Q(row);
      const Index h = unit.Head(row), i = unit.Query(row);
      if constexpr (std::is_same_v<T, BF16>) {
        const auto* from = in_.q.Row<std::uint16_t>(unit.batch, h, i);
        auto* bits = reinterpret_cast<std::uint16_t*>(to);
        for (Index c = 0; c < p_.head_dim; ++c) bits[c] = from[c] ^ (negative_ ? 0x8000u : 0u);
      } else if (layout_.widen) {
        Widen(in_.q.Row<BFloat16>(unit.batch, h, i), p_.head_dim, to);
      } else {
        std::memcpy(to, in_.q.Row<float>(unit.batch, h, i), p_.head_dim * sizeof(float));
      }
      if constexpr (std::is_same_v<T, float>) {
        for (Index c = 0; negative_ && c < p_.head_dim; ++c) to[c] = -to[c];
      }
    }
  }

  Ahead AheadOf(const ConstTensor& t, const Unit& unit, Index columns, Index from, Index to,
                Index turns) const {
    // A single row leaves memory no time: it does nothing but stream, which the hardware sees.
    if (turns == 1) return {};
    const Index size = static_cast<Index>(SizeOf(p_.dtype));
    const auto* data =
        static_cast<const char*>(t.data) +
        size * (unit.batch * t.batch_stride + unit.kv_head * t.head_stride + from * t.row_stride);
    return {data, size * t.row_stride, size * columns, std::max(to - from, Index{0}), turns};
  }

  // Rows [from, to) of K or V as T.
  Rows<T> RowsOf(const ConstTensor& t, const Unit& unit, Index columns, Index from, Index to,
                 float* widened) const {
    if constexpr (std::is_same_v<T, float>) {
      if (layout_.widen) {
        for (Index j = from; j < to; ++j)
          Widen(t.Row<BFloat16>(unit.batch, unit.kv_head, j), columns,
                widened + (j - from) * columns);
        return {widened, columns, columns};
      }
    }
    return {t.Row<T>(unit.batch, unit.kv_head, from), t.row_stride, columns};
  }

  void Attend(Index u, Index begin, Index end, const Part& part) {
    const Unit unit = UnitAt(p_, u);
    const Index limit = KeyLimit(unit);
    const Span span = SpanOf(p_, unit, limit);
    PackQueries(unit);
    std::memset(part.out, 0, unit.rows * layout_.out_stride * sizeof(float));
    std::fill_n(work_.reference, kUnitRows * kLanes, kNegInf);
    std::fill_n(work_.sum, kUnitRows * kLanes, 0.0f);
    for (Index i = begin; i < end; ++i) {
      Index from, to, next_from = 0, next_to = 0;
      span.Block(i, layout_.key_block, &from, &to);
      Unit next_unit = unit;
      if (i + 1 < end) {
        span.Block(i + 1, layout_.key_block, &next_from, &next_to);
      } else if (u + 1 < UnitCount(p_)) {  // most often the next one of this stretch
        next_unit = UnitAt(p_, u + 1);
        SpanOf(p_, next_unit, KeyLimit(next_unit))
            .Block(0, layout_.key_block, &next_from, &next_to);
      }
      if (from >= to) continue;
      const Rows<T> k = RowsOf(in_.k, unit, p_.head_dim, from, to, work_.k);
      const Rows<T> v = RowsOf(in_.v, unit, p_.v_dim, from, to, work_.v);
      const bool masked = from < span.inner_begin || to > span.inner_end;
      // Logits of all rows, then their outputs: what comes next from memory has the whole time of
      // the one or the other to arrive.
      const Index blocks = unit.rows / 4 + unit.rows / 2 % 2 + unit.rows % 2;
      Ahead values = AheadOf(in_.v, unit, p_.v_dim, from, to, blocks);
      ForEachRowBlock(unit.rows, [&](auto rows, Index row) {
        Weights<rows>(unit, row, k, from, to, limit, masked, values);
        values.Advance();
      });
      Ahead keys = AheadOf(in_.k, next_unit, p_.head_dim, next_from, next_to, blocks);
      ForEachRowBlock(unit.rows, [&](auto rows, Index row) {
        AddWeighted<rows>(row, v, to - from, keys, part);
        keys.Advance();
      });
    }
    ForEachRowBlock(unit.rows, [&](auto rows, Index row) { Reduce<rows>(row, part); });
  }

  template <class F>
  static HWY_INLINE void ForEachRowBlock(Index rows, F f) {
    Index row = 0;
    for (; row + 4 <= rows; row += 4) f(std::integral_constant<int, 4>(), row);
    if (row + 2 <= rows) f(std::integral_constant<int, 2>(), row), row += 2;
    if (row < rows) f(std::integral_constant<int, 1>(), row);
  }
  float* LogitsOf(Index row) const {
    return work_.logits + row * RoundUp(layout_.key_block, kLanes);
  }

  // Logits of a block of rows, masked, and the weights that they become in place.
  template <int kCount>
  HWY_NOINLINE void Weights(const Unit& unit, Index row, const Rows<T>& k, Index from, Index to,
                            Index limit, bool masked, const Ahead& ahead) {
    const DF df;
    constexpr int kKeys = kLanes / kCount;
    const Index count = to - from, size = RoundUp(count, kKeys) * kCount;
    float* const logits = LogitsOf(row);
    float* const reference = work_.reference + row * kLanes;
    float* const sums = work_.sum + row * kLanes;
    float* const correction = work_.correction + row;
    VF max = Logits<kCount>(Q(row), layout_.q_stride, k, count, logits, ahead);
    if (HWY_UNLIKELY(masked)) {
      for (int r = 0; r < kCount; ++r) {
        const AdmittedKeys a = p_.Admitted(unit.Query(row + r), limit);
        for (Index j = 0; j < count; ++j)
          if (!a.Contains(from + j)) logits[LogitAt<kCount>(r, j)] = kNegInf;
      }
      max = hn::Set(df, kNegInf);
      for (Index i = 0; i < size; i += kLanes) max = hn::Max(max, hn::Load(df, logits + i));
    }
    // The reference moves only when a logit passes it by 2^16: no reduction across lanes, no
    // rescaling for most blocks.
    const VF scale = hn::Set(df, scale_);
    VF shift = hn::Load(df, reference);
    std::fill_n(correction, kCount, 1.0f);
    if (HWY_UNLIKELY(
            !hn::AllTrue(df, hn::Le(hn::Mul(max, scale), hn::Add(shift, hn::Set(df, 16.0f)))))) {
      HWY_ALIGN float lanes[kLanes];
      hn::Store(hn::Mul(max, scale), df, lanes);
      for (int r = 0; r < kCount; ++r) {
        const float old = reference[r * kKeys];
        float now = old;
        for (int i = 0; i < kKeys; ++i) now = std::max(now, lanes[r * kKeys + i]);
        // Infinite logits make rows that are not finite; those are computed anew in the end.
        if (old > kNegInf) correction[r] = std::exp2(old - now);
        for (int i = 0; i < kKeys; ++i) {
          reference[r * kKeys + i] = now;
          sums[r * kKeys + i] *= correction[r];
        }
      }
      shift = hn::Load(df, reference);
    }
    shift = hn::IfThenElse(hn::Eq(shift, hn::Set(df, kNegInf)), hn::Zero(df), shift);
    VF sum = hn::Load(df, sums);
    const auto weight = [&](Index i) ATTNBENCH_INLINED {
      const VF x = hn::MulSub(hn::Load(df, logits + i), scale, shift);
      return hn::IfThenElse(hn::IsNaN(x), x, Exp2<5>(df, x));
    };
    Weight* const weights = reinterpret_cast<Weight*>(logits);
    if constexpr (std::is_same_v<T, BF16>) {  // the sum is that of the rounded weights
      for (Index i = 0; i < size; i += kLanes) {
        const VF w = RoundBF16(weight(i));
        sum = hn::Add(sum, w);
        StoreBF16(w, weights + i);
      }
    } else {
      for (Index i = 0; i < size; i += kLanes) {
        const VF w = weight(i);
        sum = hn::Add(sum, w);
        hn::Store(w, df, weights + i);
      }
    }
    hn::Store(sum, df, sums);
  }

  template <int kCount>
  HWY_NOINLINE void AddWeighted(Index row, const Rows<T>& v, Index count, const Ahead& ahead,
                                const Part& part) {
    AddValues<kCount, T>(reinterpret_cast<const Weight*>(LogitsOf(row)), v, count,
                         work_.correction + row, part.out + row * layout_.out_stride,
                         layout_.out_stride, ahead);
  }

  static HWY_INLINE VF RoundBF16(VF w) {
    const hn::RebindToUnsigned<DF> du;
    return hn::BitCast(DF(),
                       hn::And(RoundedBF16Bits(du, hn::BitCast(du, w)), hn::Set(du, 0xffff0000u)));
  }
  static HWY_INLINE void StoreBF16(VF rounded, BF16* to) {
    const hn::RebindToUnsigned<DF> du;
    const hn::Rebind<std::uint16_t, DF> d16;
    const auto bits = hn::TruncateTo(d16, hn::ShiftRight<16>(hn::BitCast(du, rounded)));
    hn::StoreU(bits, d16, reinterpret_cast<std::uint16_t*>(to));
  }

  template <int kCount>
  void Reduce(Index row, const Part& part) {
    constexpr int kKeys = kLanes / kCount;
    for (int r = 0; r < kCount; ++r) {
      float sum = 0;
      for (int i = 0; i < kKeys; ++i) sum += work_.sum[row * kLanes + r * kKeys + i];
      part.sum[row + r] = sum;
      part.reference[row + r] = work_.reference[row * kLanes + r * kKeys];
    }
  }

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
      const Index h = unit.Head(r), i = unit.Query(r);
      if (p_.out_dtype == DType::kBF16) {
        WriteRow(unit, r, part, out_.out.Row<BFloat16>(unit.batch, h, i));
      } else {
        WriteRow(unit, r, part, out_.out.Row<float>(unit.batch, h, i));
      }
    }
  }
  template <class TO>
  void WriteRow(const Unit& unit, Index r, const Part& part, TO* to) const {
    const Index b = unit.batch, h = unit.Head(r), i = unit.Query(r);
    const float* x = part.out + r * layout_.out_stride;
    const float sum = part.sum[r];
    float check = sum * 0.0f;
    for (Index c = 0; c < p_.v_dim; ++c) check += x[OutputAt<T>(c)] * 0.0f;
    if (check != 0) return RecomputeRow(p_, in_, out_, b, h, i);
    // The key at the reference alone counts 2^-16 or more.
    const bool none = part.reference[r] == kNegInf;
    for (Index c = 0; c < p_.v_dim; ++c) {
      const float value = none ? 0.0f : x[OutputAt<T>(c)] / sum;
      if constexpr (std::is_same_v<TO, float>) {
        to[c] = value;
      } else {
        to[c] = BFloat16::FromFloat(value);
      }
    }
    if (out_.lse)
      out_.lse[(b * p_.heads + h) * p_.queries + i] =
          none ? kNegInf : (std::log2(sum) + part.reference[r]) * kLn2;
  }

  const Problem& p_;
  const Inputs& in_;
  const Output& out_;
  const Layout layout_;
  const Layout::Thread& work_;
  float scale_;
  bool negative_;
};

template <class T>
void RunAs(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const Layout layout = LayoutOf(p, *context.options);
  Arena arena(context.workspace);
  Layout::Thread* const work = arena.Take<Layout::Thread>(context.threads);
  for (int t = 0; t < context.threads; ++t) work[t] = layout.Take(&arena, p);
#pragma omp parallel num_threads(context.threads) if (context.threads > 1)
  {
    const int t = omp_get_thread_num();
    Stretch<T> stretch(p, in, out, *context.options, work[t]);
    stretch.Run(t, context.threads);
    if (context.threads > 1) {
#pragma omp barrier
      stretch.Merge(t, context.threads, work);
    }
  }
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
  for (Index u = 0; u < split_keys::UnitCount(p); ++u) {
    const split_keys::Unit unit = split_keys::UnitAt(p, u);
    const double span = split_keys::SpanOf(p, unit, p.keys).Keys();
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
                     "keys whose logits are in flight at once; 0: 64 KiB"}},
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
