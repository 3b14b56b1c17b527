// SPDX-License-Identifier: Apache-2.0
// Some blocks of keys of one unit, from packed queries to a Part: what decode_scores-inl.h,
// decode_weights-inl.h and decode_values-inl.h do in turn, chunk by chunk of a block.

#if defined(ATTNBENCH_KERNELS_SIMD_DECODE_ENGINE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_DECODE_ENGINE_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_DECODE_ENGINE_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_DECODE_ENGINE_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"
#include "kernels/simd/caches.h"
#include "kernels/simd/decode_scores-inl.h"
#include "kernels/simd/decode_units.h"
#include "kernels/simd/decode_values-inl.h"
#include "kernels/simd/decode_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace decode {
using namespace decode_units;  // NOLINT

// Of K, and of V, read in turn. One tile of rows in lanes: the longer the better for the hardware's
// prefetchers. But four rows of short keys, whose V is not read line after line from far, do better
// in short turns, which keep both streams going.
constexpr Index kStreamBytes = 1048576, kShortKeys = 16;
// Several tiles of rows, or rows in blocks, read a chunk tile by tile from the second-level cache.
constexpr Index kFarTileBytes = 65536, kNearTileBytes = 131072;

inline Layout LayoutOf(const Problem& p, const Options& options, int threads) {
  Layout l;
  const Index rows = p.heads / p.kv_heads * p.queries;
  l.rows = std::min(kUnitRows, RoundUp(rows, kMaxRows));
  l.q_stride = RoundUp(p.head_dim, 2 * kLanes);
  l.out_stride = RoundUp(p.v_dim, 2 * kLanes);
  l.widen = p.dtype == DType::kBF16 && !HWY_NATIVE_DOT_BF16;
  const Index row = std::max(p.head_dim, p.v_dim) * (l.widen ? 4 : SizeOf(p.dtype));
  const auto keys = [&](Index bytes) { return std::clamp<Index>(bytes / row / 16 * 16, 32, 2048); };
  const double bytes = SizeOf(p.dtype) * static_cast<double>(p.batch * p.kv_heads * p.keys) *
                       static_cast<double>(p.head_dim + p.v_dim);
  const Index from = options["from"];
  l.far = from == 2 || (from == 0 && bytes > 0.75 * static_cast<double>(LargestCacheBytes()));
  l.tiles = RowTilesFor(l.far, l.widen || p.dtype == DType::kF32);
  if (const Index chunk = options["key_block"]) {
    l.chunk = RoundUp(chunk, 16);
  } else if (l.widen) {  // what is widened is read at once, from the first-level cache
    l.chunk = keys(16384);
  } else if (rows > kMaxRows || (l.far && rows >= l.tiles.whole)) {
    l.chunk = keys(l.far ? kFarTileBytes : kNearTileBytes);
  } else {
    l.chunk = l.far && row < 512 && rows >= 4 ? kShortKeys : keys(kStreamBytes);
  }
  l.key_block = std::max(keys(kStreamBytes), l.chunk);
  if (threads > 1) {  // 16 blocks a thread, so that one more or less is little
    const Index share = UnitCount(p) * p.keys / (16 * threads);
    l.key_block = std::clamp<Index>(share / 16 * 16, 32, l.key_block);
  }
  l.chunk = std::min(l.chunk, l.key_block);
  return l;
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
    ForEachTile(unit, [&](auto rows, Index row) {
      PackQueries<rows>(unit, row);
      const RowState state = StateOf(row);
      std::fill_n(state.reference, rows * kLanes, kNegInf);
      std::fill_n(state.sum, rows * kLanes, 0.0f);
      std::fill_n(state.check, rows * kLanes, 0.0f);
    });
    for (Index i = begin; i < end; ++i) {
      Index from, to;
      span.Block(i, layout_.key_block, &from, &to);
      // A block's sum starts from zero: one that goes on through all keys errs more the longer it
      // is.
      float* const out = i == begin ? part.out : work_.out;
      const auto all_outputs = [&](auto f) {
        ForEachTile(unit, [&](auto rows, Index row) {
          const Index first = row * layout_.out_stride;
          for (Index c = first; c < first + rows * layout_.out_stride; ++c) f(c);
        });
      };
      all_outputs([&](Index c) { out[c] = 0; });
      for (Index j = from, next; j < to; j = next) {
        next = std::min(j + layout_.chunk, to);
        const bool masked = j < span.inner_begin || next > span.inner_end;
        const Rows<T> k = RowsOf(in_.k, unit, p_.head_dim, j, next, work_.k);
        ForEachTile(unit, [&](auto rows, Index row) {
          Weigh<rows>(unit, row, k, j, next, limit, masked, part.out, out);
        });
        const Rows<T> v = RowsOf(in_.v, unit, p_.v_dim, j, next, work_.v);
        ForEachTile(unit, [&](auto rows, Index row) { AddWeighted<rows>(row, v, next - j, out); });
      }
      if (out != part.out) all_outputs([&](Index c) { part.out[c] += out[c]; });
    }
    ForEachTile(unit, [&](auto rows, Index row) { Reduce<rows>(row, part); });
  }

 private:
  using Weight = typename Values<T>::Weight;

  template <class F>
  HWY_INLINE void ForEachTile(const Unit& unit, F f) const {
    ForEachRowTile(unit.rows, layout_.tiles, f);
  }
  Index KeyLimit(const Unit& unit) const {
    return in_.key_lengths ? in_.key_lengths[unit.batch] : p_.keys;
  }
  T* Q(Index row) const { return reinterpret_cast<T*>(work_.q) + row * layout_.q_stride; }
  float* LogitsOf(Index row) const { return work_.logits + row * layout_.chunk; }
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
      const Index b = unit.batch, h = unit.Head(row + r), i = unit.Query(row + r);
      const T* const from = RowOf(in_.q, b, h, i, p_.head_dim, work_.k);
      const auto copy = [&](Index c, Index count) {
        CopyPiece(from + c, count, to + QueryAt<kRows, T>(layout_.q_stride, r, c));
      };
      Index c = 0;
      for (; c + kPiece <= p_.head_dim; c += kPiece) copy(c, kPiece);
      if (c < p_.head_dim) copy(c, p_.head_dim - c);
    }
  }
  HWY_INLINE void CopyPiece(const T* from, Index count, T* to) const {
    using Bits = hwy::MakeUnsigned<T>;
    const hn::CappedTag<Bits, 16 / sizeof(T)> d;
    const auto* const bits = reinterpret_cast<const Bits*>(from);
    const auto sign = hn::Set(d, negative_ ? hwy::SignMask<T>() : Bits{0});
    const bool whole = count == static_cast<Index>(hn::Lanes(d));
    const auto x = hn::Xor(whole ? hn::LoadU(d, bits) : hn::LoadN(d, bits, count), sign);
    hn::StoreU(x, d, reinterpret_cast<Bits*>(to));  // to the end of a piece: zeros
  }

  // A row as T, which may take `widened`.
  const T* RowOf(const ConstTensor& t, Index batch, Index head, Index i, Index columns,
                 float* widened) const {
    if constexpr (std::is_same_v<T, float>) {
      if (layout_.widen) {
        const BFloat16* const from = t.Row<BFloat16>(batch, head, i);
        for (Index c = 0; c < columns; ++c) widened[c] = from[c].ToFloat();
        return widened;
      }
    }
    return t.Row<T>(batch, head, i);
  }
  // Rows [from, to) of K or V as T.
  Rows<T> RowsOf(const ConstTensor& t, const Unit& unit, Index columns, Index from, Index to,
                 float* widened) const {
    if (layout_.widen) {
      for (Index j = from; j < to; ++j)
        RowOf(t, unit.batch, unit.kv_head, j, columns, widened + (j - from) * columns);
      return {reinterpret_cast<const T*>(widened), columns, columns, 0};
    }
    const Index row_bytes = columns * static_cast<Index>(sizeof(T));
    return {t.Row<T>(unit.batch, unit.kv_head, from), t.row_stride, columns,
            (kAheadBytes + row_bytes - 1) / row_bytes * t.row_stride};
  }

  // Weights of a tile of rows. If their references move, what was summed so far, in `all` and of
  // this block in `out`, is made relative to the new ones.
  template <int kRows>
  HWY_NOINLINE void Weigh(const Unit& unit, Index row, const Rows<T>& k, Index from, Index to,
                          Index limit, bool masked, float* all, float* out) {
    const DF df;
    constexpr int kVectors = kGroupVectors<kRows>;
    const Index count = to - from;
    const VF scale = hn::Set(df, scale_);
    const RowState state = StateOf(row);
    float* const logits = LogitsOf(row);
    Extremes<kRows> e = Logits<kRows>(Q(row), layout_.q_stride, k, count, logits);
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
    }
    // A maximum that counts keys which are hidden now is not too small at least.
    if (HWY_UNLIKELY(!Within<kRows>(e.max, scale, state))) {
      if (masked) MaxOf<kRows>(logits, count, e.max);
      MoveReferences<kRows, T>(e.max, scale, state);
      for (Index r = row; r < row + kRows; ++r) {
        for (Index c = r * layout_.out_stride; c < (r + 1) * layout_.out_stride; ++c) {
          all[c] *= work_.correction[r];
          if (out != all) out[c] *= work_.correction[r];
        }
      }
    }
    ToWeights<kRows, T>(scale, count, logits, state);
  }

  template <int kRows>
  HWY_NOINLINE void AddWeighted(Index row, const Rows<T>& v, Index count, float* out) {
    AddValues<kRows, T>(reinterpret_cast<const Weight*>(LogitsOf(row)), v, count, layout_.far,
                        out + row * layout_.out_stride, layout_.out_stride);
  }

  template <int kRows>
  void Reduce(Index row, const Part& part) {
    constexpr int kKeys = kGroup<kRows>;
    const RowState state = StateOf(row);
    for (int r = 0; r < kRows; ++r) {
      float sum = 0;
      for (int i = 0; i < kKeys; ++i) sum += 0.0f * state.check[r * kKeys + i];
      part.sum[row + r] = sum;
      part.reference[row + r] = state.reference[r * kKeys];
    }
    for (int i = 0; i < kSumLanes<kRows, T>; ++i) {
      const int r = SumRow<kRows, T>(i);
      if (r < kRows) part.sum[row + r] += state.sum[i];
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
