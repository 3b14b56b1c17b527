// SPDX-License-Identifier: Apache-2.0
// The two products of attention as register tiles. Lanes hold queries: a tile is kRows keys (or
// columns of v) times kVectors vectors of queries, whose accumulators stay in registers while one
// word of a row is broadcast against the packed queries (or probabilities). Rows that only one of
// the vectors sees are done for that one alone. Nothing is reduced across lanes. A word is 32 bits:
// a float32, or a pair of bf16 for the dot instruction (of two columns of k; of two rows of v,
// which therefore is interleaved once; k is read as it stands).
//
// Exponentials are done inside a tile: of the step before in the scores of the next (ScoreTiles),
// or of the same step in its first OutputTile, word by word as it comes to them. Alone and hot in
// L1 tiles of scores reach 97 % and of outputs 98.9 % of the FMA peak (Zen 4, f32, d = 64), with
// the exponentials 93.5 % together.

#if defined(ATTNBENCH_KERNELS_SIMD_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_TILES_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_TILES_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_TILES_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"
#include "kernels/simd/exp2-inl.h"
#include "kernels/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

// 16 accumulators of AVX-512's 32 registers (the rest: exponentials), 12 of AVX2's 16, of which the
// tile with exponentials takes 8.
constexpr int kVectors = 2;
constexpr int kQueries = kVectors * kLanes;
constexpr int kRows = HWY_TARGET <= HWY_AVX3 ? 8 : 6;
constexpr int kFirstColumns = HWY_TARGET <= HWY_AVX3 ? 8 : 4;

constexpr int kSlot = 8;  // words of k at a time, half a line

// f, times over; unrolled where registers are left for it: of 16 the compiler would spill
// accumulators (85 % of the peak instead of 94).
template <int kTimes, class F>
HWY_INLINE void Repeat(F&& f) {
#if HWY_TARGET <= HWY_AVX3
  Unroll<kTimes>([&](auto) ATTNBENCH_INLINED { f(); });
#else
#if HWY_COMPILER_GCC_ACTUAL
#pragma GCC unroll 1
#endif
  for (int i = 0; i < kTimes; ++i) f();
#endif
}

// What differs between float32 and bf16.
template <class T>
struct Words;

template <>
struct Words<float> {
  static constexpr int kElements = 1;
  static constexpr float kLog2Factor = 0;
  static HWY_INLINE VF Broadcast(const float* from) { return hn::Set(DF(), *from); }
  static HWY_INLINE VF MulAdd(VF word, VF x, VF sum) { return hn::MulAdd(word, x, sum); }
  static HWY_INLINE VF Sum(VF x) { return x; }
  // The queries are packed with the factor inside, and accumulators start at `start`.
  static HWY_INLINE VF First(VF start) { return start; }
  static HWY_INLINE VF Last(VF sum, VF, VF) { return sum; }
  static constexpr int kFastForm = kHasExpTable ? kByTable + 3 : 5;
  // A vector of words of probabilities, from scores; rows of them are `pitch` apart.
  template <int kForm>
  static HWY_INLINE VF Probabilities(const float* scores, Index = kQueries) {
    return Exp2<kForm>(DF(), hn::Load(DF(), scores));
  }
};

#if HWY_TARGET <= HWY_AVX3_ZEN4
template <>
struct Words<BFloat16> {
  static constexpr int kElements = 2;
  static constexpr float kLog2Factor = 0.5f;  // of the factor that all probabilities carry

  static HWY_INLINE VF Broadcast(const BFloat16* from) {
    std::uint32_t word;
    std::memcpy(&word, from, sizeof(word));
    return hn::BitCast(DF(), hn::Set(hn::RebindToUnsigned<DF>(), word));
  }
  static HWY_INLINE VF MulAdd(VF word, VF x, VF sum) {
    const hn::Repartition<hwy::bfloat16_t, DF> db;
    VF unused = hn::Zero(DF());
    return hn::ReorderWidenMulAccumulate(DF(), hn::BitCast(db, word), hn::BitCast(db, x), sum,
                                         unused);
  }
  static HWY_INLINE VF Sum(VF x) {
    const hn::RebindToUnsigned<DF> du;
    const auto bits = hn::BitCast(du, x);
    return hn::Add(hn::BitCast(DF(), hn::ShiftLeft<16>(bits)),
                   hn::BitCast(DF(), hn::And(bits, hn::Set(du, 0xffff0000u))));
  }
  // Scaled queries would have to be rounded to bf16 again: scale the sums.
  static HWY_INLINE VF First(VF) { return hn::Zero(DF()); }
  static HWY_INLINE VF Last(VF sum, VF factor, VF start) { return hn::MulAdd(sum, factor, start); }
  static constexpr int kFastForm = kByTable + 1;
  // sqrt(2) times the probabilities, rounded half up, which is to nearest but for ties.
  template <int kForm>
  static HWY_INLINE VF Probabilities(const float* scores, Index pitch = kQueries) {
    const hn::RebindToUnsigned<DF> du;
    const hn::Repartition<std::uint16_t, DF> du16;
    const VF even = Exp2<kForm, true>(DF(), hn::Load(DF(), scores));
    const VF odd = Exp2<kForm, true>(DF(), hn::Load(DF(), scores + pitch));
    const auto low = hn::ShiftRight<16>(hn::BitCast(du, even));
    return hn::BitCast(DF(), hn::OddEven(hn::BitCast(du16, odd), hn::BitCast(du16, low)));
  }
};
#endif

// Exponentials to be done: rows of scores from `from` on become words at `to` (never beyond `from`,
// so in place).
struct Work {
  float* from = nullptr;
  float* to = nullptr;

  template <class T, int kForm>
  HWY_INLINE void Word() {
    Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
      hn::Store(Words<T>::template Probabilities<kForm>(from + v * kLanes), DF(), to + v * kLanes);
    });
    from += Words<T>::kElements * kQueries;
    to += kQueries;
  }
};

// Rows r of kRows, a constant stride apart, by two pointers and two strides: what addresses can add
// up by themselves. With a pointer a row, or words at offsets from a pointer, the compiler runs out
// of registers and keeps what it has no place for in vector registers, where each move to and fro
// takes a multiply-add's place: 90 % of the peak instead of 97 at d = 64, hot in L1.
struct TileRows {
  const std::byte* row0;
  const std::byte* row3;
  Index stride, stride3;  // in bytes

  TileRows(const void* rows, Index stride)
      : row0(static_cast<const std::byte*>(rows)),
        row3(row0 + 3 * stride),
        stride(stride),
        stride3(3 * stride) {}

  template <int r>
  HWY_INLINE const std::byte* Row() const {
    static_assert(0 <= r && r < 8);
    if constexpr (r == 6) return row3 + stride3;
    if constexpr (r == 3 || r == 5 || r == 7) return row3 + (r - 3) * stride;
    return row0 + r * stride;
  }
  HWY_INLINE void Move(Index bytes) {
    row0 += bytes, row3 += bytes;
    Forget(row0), Forget(row3);
  }
};

// The lines of rows that are wanted next: half of a line's rows each time, for the slots of a tile
// that read half a line of every row of theirs.
class LinesAhead {
 public:
  LinesAhead(const std::byte* rows, Index stride) : at_(rows), step_(kRows / 2 * stride) {}
  HWY_INLINE void Fetch(const TileRows& rows) {
    Unroll<kRows / 2>([&](auto i) ATTNBENCH_INLINED {
      __builtin_prefetch(i == 3 ? at_ + rows.stride3 : at_ + i * rows.stride);
    });
    at_ += step_;
    step_ = 64 - step_;
    Forget(at_);
  }

 private:
  const std::byte* at_;
  Index step_;
};

// What a ScoreTile is told beside its tensors; max and sum are updated: the maximum of the scores
// over the rows, and their sum (NaN or Inf there reveals itself).
struct ScoreRows {
  const float* q;      // [words][kQueries]
  const float* start;  // [kQueries]
  float *max, *sum;    // [kQueries]
  float factor;
  Index ahead;  // bytes from a row of k to the one to fetch meanwhile; 0: none

  ScoreRows From(int vector) const {
    const int lane = vector * kLanes;
    return {q + lane, start + lane, max + lane, sum + lane, factor, ahead};
  }
};

// The maximum and the sum of rows of scores, counted some time after they were stored: all at once
// they would hold the next tile's multiply-adds up.
template <int kWidth>
struct RowsCounted {
  VF max[kWidth], sum[kWidth];
  const float* row;
  const float* last;  // counted again and again once it is reached: it changes no maximum

  HWY_INLINE void Count() {
    Unroll<kWidth>([&](auto v) ATTNBENCH_INLINED {
      const VF x = hn::Load(DF(), row + v * kLanes);
      max[v] = hn::Max(max[v], x), sum[v] = hn::Add(sum[v], x);
    });
    row = std::min(row + kQueries, last);
  }
  HWY_INLINE void Follow(const float* rows) { row = rows, last = rows + (kRows - 1) * kQueries; }
  HWY_INLINE void Finish() {
    while (row != last) Count();
    Count();
  }
};

// s[r][lane] = start[lane] + factor * sum_c q[c][lane] * k[r][c]: scores, less the running maximum,
// of kWidth vectors of queries and kRows rows of k; `at` moves to the rows after them. kWork words
// of `work` in every slot. Inlined into the loop over tiles, whose calls would cost as much as 2 %.
template <class T, int kWidth, int kWork, int kForm>
HWY_INLINE void ScoreTile(const ScoreRows& rows, TileRows& at, Index words, float* HWY_RESTRICT s,
                          RowsCounted<kWidth>& counted, Work& work) {
  using W = Words<T>;
  const DF d;
  const Index word_bytes = W::kElements * static_cast<Index>(sizeof(T));
  const float* HWY_RESTRICT q = rows.q;
  VF acc[kRows][kWidth];
  Unroll<kWidth>([&](auto v) ATTNBENCH_INLINED {
    const VF first = W::First(hn::Load(d, rows.start + v * kLanes));
    Unroll<kRows>([&](auto r) ATTNBENCH_INLINED { acc[r][v] = first; });
  });
  const auto word = [&]() ATTNBENCH_INLINED {
    VF x[kWidth];
    Unroll<kWidth>([&](auto v) ATTNBENCH_INLINED { x[v] = hn::Load(d, q + v * kLanes); });
    Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
      const VF b = W::Broadcast(reinterpret_cast<const T*>(at.template Row<r>()));
      Unroll<kWidth>([&](auto v) ATTNBENCH_INLINED { acc[r][v] = W::MulAdd(b, x[v], acc[r][v]); });
    });
    at.Move(word_bytes);
    q += kQueries;
    Forget(q);
  };
  LinesAhead ahead(at.row0 + rows.ahead, at.stride);
  Index c = words;
  for (; c >= kSlot; c -= kSlot) {
    Unroll<W::kElements>([&](auto) ATTNBENCH_INLINED {
      Repeat<kSlot / W::kElements>(word);
      counted.Count();
    });
    ahead.Fetch(at);
    Unroll<kWork>([&](auto) ATTNBENCH_INLINED { work.Word<T, kForm>(); });
  }
  for (; c > 0; --c) word();
  at.Move(kRows * at.stride - words * word_bytes);
  if (words * W::kElements < kRows * kSlot) counted.Finish();
  counted.Follow(s);
  const VF factor = hn::Set(d, rows.factor);
  Unroll<kWidth>([&](auto v) ATTNBENCH_INLINED {
    const VF start = hn::Load(d, rows.start + v * kLanes);
    Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
      hn::Store(W::Last(acc[r][v], factor, start), d, s + r * kQueries + v * kLanes);
    });
  });
}

// The same for `tiles` times kRows rows of k.
template <class T, int kWidth, int kWork, int kForm>
HWY_NOINLINE Work ScoreTiles(const ScoreRows& rows, const T* HWY_RESTRICT k, Index k_stride,
                             Index words, Index tiles, float* HWY_RESTRICT s, Work work) {
  const DF d;
  HWY_ALIGN static constexpr auto kNone = [] {
    std::array<float, kQueries> none{};
    for (float& x : none) x = -1e35f;
    return none;
  }();
  RowsCounted<kWidth> counted;
  counted.row = counted.last = kNone.data();
  Unroll<kWidth>([&](auto v) ATTNBENCH_INLINED {
    counted.max[v] = hn::Load(d, rows.max + v * kLanes);
    counted.sum[v] = hn::Load(d, rows.sum + v * kLanes);
  });
  TileRows at(k, k_stride * static_cast<Index>(sizeof(T)));
  for (; tiles > 0; --tiles, s += kRows * kQueries)
    ScoreTile<T, kWidth, kWork, kForm>(rows, at, words, s, counted, work);
  counted.Finish();
  Unroll<kWidth>([&](auto v) ATTNBENCH_INLINED {
    hn::Store(counted.max[v], d, rows.max + v * kLanes);
    hn::Store(counted.sum[v], d, rows.sum + v * kLanes);
  });
  return work;
}

// Words of probabilities: to `both_begin` only the first vector counts, from `both_end` on only the
// last one.
struct WordSpan {
  Index both_begin, both_end, end;
};

// o[c][lane] (+)= sum_j p[j][lane] * v[j][c] for kColumns columns, j over words. Fresh accumulators
// a block, added at its end: a single running sum's error grows with n. kFirst: also
// row_sum[lane] += sum_j p[j], as rounded. kForm > 0: p is scores, which become probabilities by
// a polynomial of that degree, in place.
template <class T, int kColumns, bool kFirst, int kForm>
HWY_NOINLINE void OutputTile(float* HWY_RESTRICT p, const T* HWY_RESTRICT v, Index v_stride,
                             const WordSpan& span, bool first, float* HWY_RESTRICT o,
                             float* HWY_RESTRICT row_sum) {
  using W = Words<T>;
  const DF d;
  VF acc[kColumns][kVectors], total[kVectors];
  Unroll<kVectors>([&](auto u) ATTNBENCH_INLINED {
    total[u] = hn::Zero(d);
    Unroll<kColumns>([&](auto c) ATTNBENCH_INLINED { acc[c][u] = hn::Zero(d); });
  });
  const float* scores = p;  // no further than where p is
  // The next word for vectors `from`, ..., `width` of them.
  const auto word = [&](auto from, auto width) ATTNBENCH_INLINED {
    VF x[kVectors];
    Unroll<width>([&](auto i) ATTNBENCH_INLINED {
      constexpr int u = from + i;
      if constexpr (kForm > 0) {
        x[u] = W::template Probabilities<kForm>(scores + u * kLanes);
        hn::Store(x[u], d, p + u * kLanes);
      } else {
        x[u] = hn::Load(d, p + u * kLanes);
      }
      if constexpr (kFirst) total[u] = hn::Add(total[u], W::Sum(x[u]));
    });
    Unroll<kColumns>([&](auto c) ATTNBENCH_INLINED {
      const VF b = W::Broadcast(v + c * W::kElements);
      Unroll<width>([&](auto i) ATTNBENCH_INLINED {
        constexpr int u = from + i;
        acc[c][u] = W::MulAdd(b, x[u], acc[c][u]);
      });
    });
    if constexpr (kForm > 0) scores += W::kElements * kQueries;
    p += kQueries, v += v_stride;
    Forget(p), Forget(v);
  };
  constexpr std::integral_constant<int, 0> kFrom0;
  constexpr std::integral_constant<int, kVectors - 1> kFromLast;
  constexpr std::integral_constant<int, 1> kOne;
  constexpr std::integral_constant<int, kVectors> kBoth;
  Index j = 0;
  for (; j < span.both_begin; ++j) word(kFrom0, kOne);
  for (; j + 4 <= span.both_end; j += 4)
    Repeat<4>([&]() ATTNBENCH_INLINED { word(kFrom0, kBoth); });
  for (; j < span.both_end; ++j) word(kFrom0, kBoth);
  for (; j < span.end; ++j) word(kFromLast, kOne);
  Unroll<kVectors>([&](auto u) ATTNBENCH_INLINED {
    Unroll<kColumns>([&](auto c) ATTNBENCH_INLINED {
      float* to = o + c * kQueries + u * kLanes;
      hn::Store(first ? acc[c][u] : hn::Add(hn::Load(d, to), acc[c][u]), d, to);
    });
    if constexpr (kFirst) {
      float* to = row_sum + u * kLanes;
      hn::Store(hn::Add(hn::Load(d, to), total[u]), d, to);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
