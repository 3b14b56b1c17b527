// SPDX-License-Identifier: Apache-2.0
// Some blocks of keys of one unit, from packed queries to a Part: what decode_scores-inl.h,
// decode_values-inl.h and decode_weights-inl.h do in turn, chunk by chunk of a block. Values are a
// chunk behind, so that none waits for weights that were made just before.

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

// Of K, and of V, read in turn. Rows in lanes: the longer the better for the hardware's
// prefetchers. But four rows of short keys, whose V is not read line after line, do better in short
// turns, which keep both streams going.
constexpr Index kStreamBytes = 1048576, kShortKeys = 16;
// Rows in blocks read a chunk tile by tile, from the second-level cache.
constexpr Index kTileBytes = 65536;

inline Layout LayoutOf(const Problem& p, Index chunk, int threads) {
  Layout l;
  const Index rows = p.heads / p.kv_heads * p.queries;
  l.rows = std::min(kUnitRows, RoundUp(rows, kMaxRows));
  l.q_stride = RoundUp(p.head_dim, 2 * kLanes);
  l.out_stride = RoundUp(p.v_dim, 2 * kLanes);
  l.widen = p.dtype == DType::kBF16 && !HWY_NATIVE_DOT_BF16;
  const Index row = std::max(p.head_dim, p.v_dim) * (l.widen ? 4 : SizeOf(p.dtype));
  const auto keys = [&](Index bytes) { return std::clamp<Index>(bytes / row / 16 * 16, 32, 2048); };
  if (chunk) {
    l.chunk = RoundUp(chunk, 16);
  } else if (l.widen) {  // what is widened is read at once, from the first-level cache
    l.chunk = keys(16384);
  } else if (OnlyInLanes(rows)) {
    l.chunk = rows <= 3 || row >= 512 ? keys(kStreamBytes) : kShortKeys;
  } else {
    l.chunk = keys(kTileBytes);
  }
  l.key_block = std::max(keys(kStreamBytes), l.chunk);
  if (threads > 1) {  // 16 blocks a thread, so that one more or less is little
    const Index share = UnitCount(p) * p.keys / (16 * threads);
    l.key_block = std::clamp<Index>(share / 16 * 16, 32, l.key_block);
  }
  l.chunk = std::min(l.chunk, l.key_block);
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
      Index from, to;
      span.Block(i, layout_.key_block, &from, &to);
      // A block's sum starts from zero: one that goes on through all keys errs more the longer it
      // is.
      std::fill_n(work_.out, layout_.rows * layout_.out_stride, 0.0f);
      const auto chunk_end = [&](Index j) { return std::min(j + layout_.chunk, to); };
      int turn = 0;
      for (Index j = from, before = to; before < to || j < to; turn ^= 1) {
        if (j < to) {
          const Rows<T> k = RowsOf(in_.k, unit, p_.head_dim, j, chunk_end(j), work_.k);
          const bool masked = j < span.inner_begin || chunk_end(j) > span.inner_end;
          ForEachRowTile(unit.rows, [&](auto rows, Index row) {
            Score<rows>(unit, row, k, j, chunk_end(j), limit, masked, turn);
          });
        }
        if (before < to) {
          const Rows<T> v = RowsOf(in_.v, unit, p_.v_dim, before, chunk_end(before), work_.v);
          ForEachRowTile(unit.rows, [&](auto rows, Index row) {
            AddWeighted<rows>(row, v, chunk_end(before) - before, turn ^ 1);
          });
        }
        if (j < to) {
          ForEachRowTile(unit.rows, [&](auto rows, Index row) {
            Weigh<rows>(row, chunk_end(j) - j, turn, part);
          });
        }
        before = j, j = chunk_end(j);
      }
      for (Index c = 0; c < unit.rows * layout_.out_stride; ++c) part.out[c] += work_.out[c];
    }
    ForEachRowTile(unit.rows, [&](auto rows, Index row) { Reduce<rows>(row, part); });
  }

 private:
  using Weight = typename Values<T>::Weight;

  Index KeyLimit(const Unit& unit) const {
    return in_.key_lengths ? in_.key_lengths[unit.batch] : p_.keys;
  }
  T* Q(Index row) const { return reinterpret_cast<T*>(work_.q) + row * layout_.q_stride; }
  float* LogitsOf(Index row, int turn) const { return work_.logits[turn] + row * layout_.chunk; }
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

  // Rows [from, to) of K or V as T.
  Rows<T> RowsOf(const ConstTensor& t, const Unit& unit, Index columns, Index from, Index to,
                 float* widened) const {
    if constexpr (std::is_same_v<T, float>) {
      if (layout_.widen) {
        for (Index j = from; j < to; ++j)
          Widen(t.Row<BFloat16>(unit.batch, unit.kv_head, j), columns,
                widened + (j - from) * columns);
        return {widened, columns, columns, 0};
      }
    }
    const Index row_bytes = columns * static_cast<Index>(sizeof(T));
    return {t.Row<T>(unit.batch, unit.kv_head, from), t.row_stride, columns,
            (kAheadBytes + row_bytes - 1) / row_bytes * t.row_stride};
  }

  // Logits of a tile of rows, masked.
  template <int kRows>
  HWY_NOINLINE void Score(const Unit& unit, Index row, const Rows<T>& k, Index from, Index to,
                          Index limit, bool masked, int turn) {
    const DF df;
    constexpr int kVectors = kGroupVectors<kRows>;
    const Index count = to - from;
    float* const logits = LogitsOf(row, turn);
    Extremes<kRows> e = Logits<kRows>(Q(row), layout_.q_stride, k, count, logits);
    Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
      float* const check = StateOf(row).check + v * kLanes;
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
          e.max[v] = hn::Max(e.max[v], hn::Load(df, logits + j * kPlaces<kRows> + v * kLanes));
        });
      }
    }
    Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
      hn::Store(e.max[v], df, work_.max + row * kLanes + v * kLanes);
    });
  }

  // Their weights; what was summed so far is made relative to the same references.
  template <int kRows>
  HWY_NOINLINE void Weigh(Index row, Index count, int turn, const Part& part) {
    VF max[kGroupVectors<kRows>];
    Unroll<kGroupVectors<kRows>>([&](auto v) ATTNBENCH_INLINED {
      max[v] = hn::Load(DF(), work_.max + row * kLanes + v * kLanes);
    });
    if (HWY_LIKELY(!(ToWeights<kRows, T>(max, scale_, count, LogitsOf(row, turn), StateOf(row)))))
      return;
    for (Index r = row; r < row + kRows; ++r) {
      for (Index c = r * layout_.out_stride; c < (r + 1) * layout_.out_stride; ++c) {
        part.out[c] *= work_.correction[r];
        work_.out[c] *= work_.correction[r];
      }
    }
  }

  template <int kRows>
  HWY_NOINLINE void AddWeighted(Index row, const Rows<T>& v, Index count, int turn) {
    AddValues<kRows, T>(reinterpret_cast<const Weight*>(LogitsOf(row, turn)), v, count,
                        work_.out + row * layout_.out_stride, layout_.out_stride);
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
