// SPDX-License-Identifier: Apache-2.0
// Some blocks of keys of one unit, from packed queries to a Part: what decode_scores-inl.h,
// decode_weights-inl.h and decode_values-inl.h do in turn, block by block.

#if defined(ATTNBENCH_KERNELS_SIMD_DECODE_ENGINE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_DECODE_ENGINE_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_DECODE_ENGINE_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_DECODE_ENGINE_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"
#include "kernels/simd/decode_scores-inl.h"
#include "kernels/simd/decode_units.h"
#include "kernels/simd/decode_values-inl.h"
#include "kernels/simd/decode_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace decode {
using namespace decode_units;  // NOLINT

// Rows that do nothing but stream: the hardware's own prefetchers do best, in long runs, if the
// first lines of the next run are there when it begins.
constexpr Index kHeadBytes = 8192;
// Rows whose arithmetic takes about as long as reading: so far ahead in what is being read.
constexpr Index kAheadBytes = 16384;

inline Layout LayoutOf(const Problem& p, Index key_block, int threads) {
  Layout l;
  const Index rows = p.heads / p.kv_heads * p.queries;
  l.streams = rows <= kStreamRows;
  l.balanced = !l.streams && rows <= 4;
  l.rows = std::min(kUnitRows, RoundUp(rows, kMaxRows));
  l.q_stride = RoundUp(p.head_dim, 2 * kLanes);
  l.out_stride = RoundUp(p.v_dim, 2 * kLanes);
  l.widen = p.dtype == DType::kBF16 && !HWY_NATIVE_DOT_BF16;
  // Rows of queries read a block again and again, from the second-level cache; what was widened is
  // read at once, from the first. Streams are the better the longer they are.
  const Index bytes = l.widen ? 16384 : l.streams ? 1048576 : l.balanced ? 32768 : 65536;
  const Index row = std::max(p.head_dim, p.v_dim) * (l.widen ? 4 : SizeOf(p.dtype));
  l.key_block = std::clamp<Index>(bytes / row / 16 * 16, 32, 2048);
  if (threads > 1) {  // 16 blocks a thread, so that one more or less is little
    const Index share = UnitCount(p) * p.keys / (16 * threads);
    l.key_block = std::clamp<Index>(share / 16 * 16, 32, l.key_block);
  }
  if (key_block) l.key_block = RoundUp(key_block, 16);
  return l;
}

inline void Widen(const BFloat16* from, Index columns, float* to) {
  for (Index c = 0; c < columns; ++c) to[c] = from[c].ToFloat();
}

// `T` is the element type of the arithmetic.
template <class T>
class Decoder {
 public:
  Decoder(const Problem& p, const Inputs& in, const Layout& layout, const Layout::Thread& work)
      : p_(p), in_(in), layout_(layout), work_(work) {
    // The sign of the scale goes into q, which keeps the maximum a maximum; a scale of 0 must not
    // meet the -inf of masked logits.
    const double scale = p.scale * 1.4426950408889634;
    scale_ = std::max(static_cast<float>(std::abs(scale)), 1e-37f);
    negative_ = scale < 0;
  }

  Span SpanOf(const Unit& unit) const { return decode_units::SpanOf(p_, unit, KeyLimit(unit)); }

  // Blocks [begin, end) of unit u.
  void Attend(Index u, Index begin, Index end, const Part& part) {
    const Unit unit = UnitAt(p_, u);
    const Index limit = KeyLimit(unit);
    const Span span = SpanOf(unit);
    ForEachRowTile(unit.rows, [&](auto rows, Index row) { PackQueries<rows>(unit, row); });
    std::fill_n(part.out, layout_.rows * layout_.out_stride, 0.0f);
    std::fill_n(work_.reference, layout_.rows * kLanes, kNegInf);
    std::fill_n(work_.sum, layout_.rows * kLanes, 0.0f);
    std::fill_n(work_.check, layout_.rows * kLanes, 0.0f);
    for (Index i = begin; i < end; ++i) {
      Index from, to, next_from = 0, next_to = 0;
      span.Block(i, layout_.key_block, &from, &to);
      Unit next_unit = unit;
      if (i + 1 < end) {
        span.Block(i + 1, layout_.key_block, &next_from, &next_to);
      } else if (u + 1 < UnitCount(p_)) {  // most often the next one of this stretch
        next_unit = UnitAt(p_, u + 1);
        SpanOf(next_unit).Block(0, layout_.key_block, &next_from, &next_to);
      }
      if (from >= to) continue;
      const Rows<T> k = RowsOf(in_.k, unit, p_.head_dim, from, to, work_.k);
      const Rows<T> v = RowsOf(in_.v, unit, p_.v_dim, from, to, work_.v);
      const bool masked = from < span.inner_begin || to > span.inner_end;
      // Logits of all rows, then their outputs: what comes next from memory has the whole time of
      // the one or the other to arrive.
      Index logit_steps = 0, value_steps = 0;
      ForEachRowTile(unit.rows, [&](auto rows, Index) {
        logit_steps += LogitSteps<rows, T>(to - from, p_.head_dim);
        value_steps += ValueSteps<rows, T>(to - from, p_.v_dim);
      });
      Ahead values = layout_.balanced
                         ? FurtherAhead(in_.k, unit, p_.head_dim, from, to, logit_steps)
                         : AheadOf(in_.v, unit, p_.v_dim, from, to, logit_steps);
      ForEachRowTile(unit.rows, [&](auto rows, Index row) {
        Weights<rows>(unit, row, k, from, to, limit, masked, values);
      });
      Ahead keys = layout_.balanced
                       ? FurtherAhead(in_.v, unit, p_.v_dim, from, to, value_steps)
                       : AheadOf(in_.k, next_unit, p_.head_dim, next_from, next_to, value_steps);
      ForEachRowTile(unit.rows, [&](auto rows, Index row) {
        AddWeighted<rows>(row, v, to - from, keys, part);
      });
    }
    ForEachRowTile(unit.rows, [&](auto rows, Index row) { Reduce<rows>(row, part); });
  }

 private:
  using Weight = typename Values<T>::Weight;

  Index KeyLimit(const Unit& unit) const {
    return in_.key_lengths ? in_.key_lengths[unit.batch] : p_.keys;
  }
  T* Q(Index row) const { return reinterpret_cast<T*>(work_.q) + row * layout_.q_stride; }
  float* LogitsOf(Index row) const { return work_.logits + row * RoundUp(layout_.key_block, 16); }
  RowState StateOf(Index row) const {
    return {work_.reference + row * kLanes, work_.sum + row * kLanes, work_.check + row * kLanes,
            work_.correction + row};
  }

  template <int kRows>
  void PackQueries(const Unit& unit, Index row) {
    T* const to = Q(row);
    std::memset(static_cast<void*>(to), 0, kRows * layout_.q_stride * sizeof(T));
    constexpr Index kPiece = 16 / sizeof(T);
    for (Index r = 0; r < std::min<Index>(kRows, unit.rows - row); ++r) {
      const Index h = unit.Head(row + r), i = unit.Query(row + r);
      const auto copy = [&](const auto* from) {
        Index c = 0;
        for (; c + kPiece <= p_.head_dim; c += kPiece) {
          T* const piece = to + QueryAt<kRows, T>(layout_.q_stride, r, c);
          for (Index e = 0; e < kPiece; ++e) piece[e] = Query(from[c + e]);
        }
        for (; c < p_.head_dim; ++c) to[QueryAt<kRows, T>(layout_.q_stride, r, c)] = Query(from[c]);
      };
      if (p_.dtype == DType::kBF16) {
        copy(in_.q.Row<BFloat16>(unit.batch, h, i));
      } else {
        copy(in_.q.Row<float>(unit.batch, h, i));
      }
    }
  }
  template <class From>
  T Query(From x) const {
    if constexpr (std::is_same_v<T, BF16>) {
      const BFloat16 x16 = BFloat16::FromFloat(ToFloat(x));
      return hwy::BitCastScalar<BF16>(
          static_cast<std::uint16_t>(x16.bits ^ (negative_ ? 0x8000u : 0u)));
    } else {
      return negative_ ? -ToFloat(x) : ToFloat(x);
    }
  }

  // Rows [from, to) of K or V, to be fetched within so many steps.
  Ahead AheadOf(const ConstTensor& t, const Unit& unit, Index columns, Index from, Index to,
                Index steps) const {
    const Index size = static_cast<Index>(SizeOf(p_.dtype));
    if (layout_.streams) to = std::min(to, from + kHeadBytes / (size * columns));
    const auto* data =
        static_cast<const char*>(t.data) +
        size * (unit.batch * t.batch_stride + unit.kv_head * t.head_stride + from * t.row_stride);
    return {data, size * t.row_stride, size * columns, std::max(to - from, Index{0}), steps};
  }

  // What lies kAheadBytes beyond rows [from, to).
  Ahead FurtherAhead(const ConstTensor& t, const Unit& unit, Index columns, Index from, Index to,
                     Index steps) const {
    const Index further = kAheadBytes / (static_cast<Index>(SizeOf(p_.dtype)) * columns);
    return AheadOf(t, unit, columns, std::min(from + further, p_.keys),
                   std::min(to + further, p_.keys), steps);
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

  // Logits of a tile of rows, masked, and the weights that they become in place.
  template <int kRows>
  HWY_NOINLINE void Weights(const Unit& unit, Index row, const Rows<T>& k, Index from, Index to,
                            Index limit, bool masked, Ahead& ahead) {
    const DF df;
    constexpr int kVectors = kGroupVectors<kRows>;
    const Index count = to - from;
    float* const logits = LogitsOf(row);
    const RowState state = StateOf(row);
    Extremes<kRows> e = Logits<kRows>(Q(row), layout_.q_stride, k, count, logits, ahead);
    Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
      float* const check = state.check + v * kLanes;
      hn::Store(hn::Add(hn::Load(df, check), e.sum[v]), df, check);
    });
    if (HWY_UNLIKELY(masked)) {
      for (Index r = 0; r < std::min<Index>(kRows, unit.rows - row); ++r) {
        const AdmittedKeys a = p_.Admitted(unit.Query(row + r), limit);
        const auto hide = [&](Index first, Index last) {
          for (Index j = std::max(first, from); j < std::min(last, to); ++j)
            logits[LogitAt<kRows>(r, j - from)] = kNegInf;
        };
        hide(a.sinks, a.band_begin);
        hide(std::max(a.sinks, a.band_end), to);
      }
      Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED { e.max[v] = hn::Set(df, kNegInf); });
      for (Index j = 0; j < count; j += kGroup<kRows>) {
        Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
          e.max[v] = hn::Max(e.max[v], hn::Load(df, logits + j * kRows + v * kLanes));
        });
      }
    }
    ToWeights<kRows, T>(e.max, scale_, count, logits, state);
  }

  template <int kRows>
  HWY_NOINLINE void AddWeighted(Index row, const Rows<T>& v, Index count, Ahead& ahead,
                                const Part& part) {
    AddValues<kRows, T>(reinterpret_cast<const Weight*>(LogitsOf(row)), v, count,
                        work_.correction + row, part.out + row * layout_.out_stride,
                        layout_.out_stride, ahead);
  }

  template <int kRows>
  void Reduce(Index row, const Part& part) {
    constexpr int kKeys = kGroup<kRows>;
    const RowState state = StateOf(row);
    for (int r = 0; r < kRows; ++r) {
      float sum = 0;
      for (int i = 0; i < kKeys; ++i)
        sum += state.sum[r * kKeys + i] + 0.0f * state.check[r * kKeys + i];
      part.sum[row + r] = sum;
      part.reference[row + r] = state.reference[r * kKeys];
    }
  }

  const Problem& p_;
  const Inputs& in_;
  const Layout& layout_;
  const Layout::Thread& work_;
  float scale_;
  bool negative_;
};

}  // namespace decode
}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
