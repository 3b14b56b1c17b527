// SPDX-License-Identifier: Apache-2.0
// The two products of attention as register tiles. Lanes hold queries: a tile is kRows keys (or
// columns of v) times kVectors vectors of queries, whose accumulators stay in registers while one
// word of a row is broadcast against the packed queries (or probabilities). Rows that only one of
// the vectors sees are done for that one alone. Nothing is reduced across lanes. A word is 32 bits:
// a float32, or a pair of bf16 for the dot instruction (of two columns of k; of two rows of v,
// which therefore is interleaved once; k is read as it stands).
//
// The first OutputTile of a block turns scores into probabilities, word by word as it comes to
// them: their latency hides in its product. Alone and hot in L1 a tile reaches 98 % of the FMA peak
// (Zen 4); the exponentials' multiply-adds cost 4 % at d = 64 and 2 % at d = 128.

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

// What differs between float32 and bf16.
template <class T>
struct Words;

template <>
struct Words<float> {
  static constexpr int kElements = 1;
  static constexpr float kLog2Factor = 0;
  static constexpr int kSlot = 4;  // words of a product at a time
  static HWY_INLINE VF Broadcast(const float* from) { return hn::Set(DF(), *from); }
  static HWY_INLINE VF MulAdd(VF word, VF x, VF sum) { return hn::MulAdd(word, x, sum); }
  static HWY_INLINE VF Sum(VF x) { return x; }
  // The queries are packed with the factor inside, and accumulators start at `start`.
  static HWY_INLINE VF First(VF start) { return start; }
  static HWY_INLINE VF Last(VF sum, VF, VF) { return sum; }
  // A vector of words of probabilities, from scores; rows of them are kQueries apart.
  template <int kDegree>
  static HWY_INLINE VF Probabilities(const float* scores) {
    return Exp2<kDegree>(DF(), hn::Load(DF(), scores));
  }
};

#if HWY_TARGET <= HWY_AVX3_ZEN4
template <>
struct Words<BFloat16> {
  static constexpr int kElements = 2;
  static constexpr float kLog2Factor = 0.5f;  // of the factor that all probabilities carry
  static constexpr int kSlot = 8;             // words of a product between exponentials

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
  // sqrt(2) times the probabilities, rounded half up, which is to nearest but for ties.
  template <int kDegree>
  static HWY_INLINE VF Probabilities(const float* scores) {
    const hn::RebindToUnsigned<DF> du;
    const hn::Repartition<std::uint16_t, DF> du16;
    const VF even = Exp2<kDegree, true>(DF(), hn::Load(DF(), scores));
    const VF odd = Exp2<kDegree, true>(DF(), hn::Load(DF(), scores + kQueries));
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

  template <class T, int kDegree>
  HWY_INLINE void Word() {
    Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
      hn::Store(Words<T>::template Probabilities<kDegree>(from + v * kLanes), DF(),
                to + v * kLanes);
    });
    from += Words<T>::kElements * kQueries;
    to += kQueries;
  }
};

// As many rows as a tile has, wanted next: a tile fetches a line of every one of them for each line
// that it reads of its own.
struct RowsAhead {
  const void* rows = nullptr;
  Index stride = 0;  // in bytes

  // The share of the words from c on, kWords of a line's 16.
  template <int kWords>
  HWY_INLINE void Fetch(Index c) const {
    constexpr int kParts = 16 / kWords, kEach = (kRows + kParts - 1) / kParts;
    const std::byte* at =
        static_cast<const std::byte*>(rows) + c / 16 * 64 + c / kWords % kParts * kEach * stride;
    Unroll<kEach>([&](auto i) ATTNBENCH_INLINED { __builtin_prefetch(at + i * stride); });
  }
};

// What a ScoreTile is told beside its tensors; max and sum are updated: the maximum of the scores
// over the rows, and their sum (NaN or Inf there reveals itself).
struct ScoreRows {
  const float* q;      // [words][kQueries]
  const float* start;  // [kQueries]
  float *max, *sum;    // [kQueries]
  float factor;
  RowsAhead ahead;  // of k

  ScoreRows From(int vector) const {
    const int lane = vector * kLanes;
    return {q + lane, start + lane, max + lane, sum + lane, factor, ahead};
  }
};

// s[r][lane] = start[lane] + factor * sum_c q[c][lane] * k[r][c]: scores, less the running maximum,
// of kWidth vectors of queries. kWork words of `work` in every slot.
template <class T, int kWidth, int kWork, int kDegree>
HWY_NOINLINE Work ScoreTile(const ScoreRows& rows, const T* HWY_RESTRICT k, Index k_stride,
                            Index words, float* HWY_RESTRICT s, Work work) {
  using W = Words<T>;
  const DF d;
  const float* HWY_RESTRICT q = rows.q;
  VF acc[kRows][kWidth];
  Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
    Unroll<kWidth>([&](auto v) ATTNBENCH_INLINED {
      acc[r][v] = W::First(hn::Load(d, rows.start + v * kLanes));
    });
  });
  const auto word = [&](Index c) ATTNBENCH_INLINED {
    VF x[kWidth];
    Unroll<kWidth>([&](auto v)
                       ATTNBENCH_INLINED { x[v] = hn::Load(d, q + c * kQueries + v * kLanes); });
    Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
      const VF b = W::Broadcast(k + r * k_stride + c * W::kElements);
      Unroll<kWidth>([&](auto v) ATTNBENCH_INLINED { acc[r][v] = W::MulAdd(b, x[v], acc[r][v]); });
    });
  };
  Index c = 0;
  for (; c + W::kSlot <= words; c += W::kSlot) {
    Unroll<W::kSlot>([&](auto u) ATTNBENCH_INLINED { word(c + u); });
    rows.ahead.Fetch<W::kSlot>(c);
    Unroll<kWork>([&](auto) ATTNBENCH_INLINED { work.Word<T, kDegree>(); });
  }
  for (; c < words; ++c) word(c);
  const VF factor = hn::Set(d, rows.factor);
  Unroll<kWidth>([&](auto v) ATTNBENCH_INLINED {
    const VF start = hn::Load(d, rows.start + v * kLanes);
    VF max = hn::Load(d, rows.max + v * kLanes), sum = hn::Load(d, rows.sum + v * kLanes);
    Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
      const VF x = W::Last(acc[r][v], factor, start);
      hn::Store(x, d, s + r * kQueries + v * kLanes);
      max = hn::Max(max, x);
      sum = hn::Add(sum, x);
    });
    hn::Store(max, d, rows.max + v * kLanes);
    hn::Store(sum, d, rows.sum + v * kLanes);
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
// row_sum[lane] += sum_j p[j], as rounded. kDegree > 0: p is scores, which become probabilities by
// a polynomial of that degree, in place.
template <class T, int kColumns, bool kFirst, int kDegree>
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
  // Word j for vectors `from`, ..., `width` of them.
  const auto word = [&](auto from, auto width, Index j) ATTNBENCH_INLINED {
    VF x[kVectors];
    Unroll<width>([&](auto i) ATTNBENCH_INLINED {
      constexpr int u = from + i;
      float* const at = p + j * kQueries + u * kLanes;
      if constexpr (kDegree > 0) {
        x[u] = W::template Probabilities<kDegree>(p + j * W::kElements * kQueries + u * kLanes);
        hn::Store(x[u], d, at);
      } else {
        x[u] = hn::Load(d, at);
      }
      if constexpr (kFirst) total[u] = hn::Add(total[u], W::Sum(x[u]));
    });
    Unroll<kColumns>([&](auto c) ATTNBENCH_INLINED {
      const VF b = W::Broadcast(v + j * v_stride + c * W::kElements);
      Unroll<width>([&](auto i) ATTNBENCH_INLINED {
        constexpr int u = from + i;
        acc[c][u] = W::MulAdd(b, x[u], acc[c][u]);
      });
    });
  };
  constexpr std::integral_constant<int, 1> kOne;
  constexpr std::integral_constant<int, kVectors> kBoth;
  Index j = 0;
  for (; j < span.both_begin; ++j) word(std::integral_constant<int, 0>(), kOne, j);
  for (; j + 4 <= span.both_end; j += 4) {
    Unroll<4>([&](auto u)
                  ATTNBENCH_INLINED { word(std::integral_constant<int, 0>(), kBoth, j + u); });
  }
  for (; j < span.both_end; ++j) word(std::integral_constant<int, 0>(), kBoth, j);
  for (; j < span.end; ++j) word(std::integral_constant<int, kVectors - 1>(), kOne, j);
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
