// SPDX-License-Identifier: Apache-2.0
// The outputs of a few query rows: weights times V over a run of keys. Lanes hold columns of V,
// sums stay in registers over the run, and a vector of V that is loaded serves all rows of the
// panel. Weights come in the order of LogitAt. Where K is read line after line V is too: its panels
// are whole rows, if registers hold the sums of as many columns.

#if defined(ATTNBENCH_KERNELS_SIMD_DECODE_VALUES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_DECODE_VALUES_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_DECODE_VALUES_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_DECODE_VALUES_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/simd/decode_scores-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace decode {

// What AddValues needs of the element type: a step is one key (f32) or a pair of keys (bf16), a
// group of columns is one or two accumulators wide.
template <class T>
struct Values;
template <>
struct Values<float> {
  static constexpr int kStep = 1, kWide = 1;
  using Weight = float;
  static HWY_INLINE VF Broadcast(const float* w) { return hn::Set(DF(), *w); }
  // Of one row or two: vectors as they are multiplied.
  template <int kGroups>
  static HWY_INLINE void Combine(const VF (&x)[kStep][kGroups], VF (&y)[kGroups]) {
    for (int g = 0; g < kGroups; ++g) y[g] = x[0][g];
  }
  static HWY_INLINE VF MulAdd(VF w, VF y, VF sum) { return hn::MulAdd(w, y, sum); }
};
template <>
struct Values<BF16> {
  static constexpr int kStep = 2, kWide = 2;
  using Weight = BF16;
  static HWY_INLINE VBF Broadcast(const BF16* w) {
    std::int32_t pair;
    hwy::CopyBytes<4>(w, &pair);
    return hn::BitCast(DBF(), hn::Set(hn::RebindToSigned<DF>(), pair));
  }
  // Columns come out permuted within 8: AddValues' output is in the order of OutputAt.
  template <int kGroups>
  static HWY_INLINE void Combine(const VBF (&x)[kStep][kGroups], VBF (&y)[2 * kGroups]) {
    const hn::RebindToUnsigned<DBF> du;
    const DBF d;
    Unroll<kGroups>([&](auto g) ATTNBENCH_INLINED {
      const auto a = hn::BitCast(du, x[0][g]), b = hn::BitCast(du, x[1][g]);
      y[2 * g] = hn::BitCast(d, hn::InterleaveLower(du, a, b));
      y[2 * g + 1] = hn::BitCast(d, hn::InterleaveUpper(du, a, b));
    });
  }
  static HWY_INLINE VF MulAdd(VBF w, VBF y, VF sum) { return Element<BF16>::Dot(w, y, sum); }
};

// Where column c of the output stands.
template <class T>
HWY_INLINE Index OutputAt(Index c) {
  if constexpr (std::is_same_v<T, float>) return c;
  const Index within = c % (2 * kLanes);
  return c - within + (within / 4 % 2) * kLanes + within / 8 * 4 + within % 4;
}

// A row of the output, as AddValues leaves it, into its place.
template <class T>
HWY_INLINE void CopyRow(const float* from, Index columns, float* to) {
  for (Index c = 0; c < columns; ++c) to[c] = from[OutputAt<T>(c)];
}
template <class T>
HWY_INLINE void CopyRow(const float* from, Index columns, BFloat16* to) {
  Index c = 0;
  if constexpr (std::is_same_v<T, BF16>) {  // packing works within 16 bytes too: columns in order
    const hn::RebindToUnsigned<DF> du;
    const hn::RebindToSigned<DF> di;
    const hn::Repartition<std::uint16_t, DF> du16;
    const auto high_half = [&](const float* x) ATTNBENCH_INLINED {
      return hn::BitCast(
          di, hn::ShiftRight<16>(RoundedBF16Bits(du, hn::BitCast(du, hn::Load(DF(), x)))));
    };
    for (; c + 2 * kLanes <= columns; c += 2 * kLanes)
      hn::StoreU(hn::ReorderDemote2To(du16, high_half(from + c), high_half(from + c + kLanes)),
                 du16, reinterpret_cast<std::uint16_t*>(to + c));
  }
  for (; c < columns; ++c) to[c] = BFloat16::FromFloat(from[OutputAt<T>(c)]);
}

// Panel of kGroups groups of columns and kCount rows of kRows: sums[r] += sum_j w[r][j] v[j].
// kAsk: software asks for what comes, as panels are parts of V's rows.
template <int kRows, int kFirst, int kCount, bool kAsk, int kGroups, bool kPartial, class T>
HWY_INLINE void AddPanel(const typename Values<T>::Weight* HWY_RESTRICT weights, const Rows<T>& v,
                         Index keys, float* HWY_RESTRICT sums, Index stride) {
  using E = Values<T>;
  constexpr int kKeys = kGroup<kRows>, kVectors = kGroups * E::kWide;
  constexpr int kPer = E::kWide * kLanes;
  // A multiply-add takes 4 cycles: few accumulators are doubled.
  constexpr int kSets = kCount * kVectors <= 4 ? 2 : 1;
  const DF df;
  const Index last = v.columns - (kGroups - 1) * kPer;
  VF acc[kSets][kCount][kVectors];
  const auto place = [&](auto r, auto x)
                         ATTNBENCH_INLINED { return sums + (kFirst + r) * stride + x * kLanes; };
  Unroll<kCount>([&](auto r) ATTNBENCH_INLINED {
    Unroll<kVectors>([&](auto x) ATTNBENCH_INLINED {
      acc[0][r][x] = hn::Load(df, place(r, x));
      if constexpr (kSets == 2) acc[1][r][x] = hn::Zero(df);
    });
  });
  InOrder in_order;
  const typename Element<T>::D d;
  using V = hn::Vec<typename Element<T>::D>;
  // Rows group + k ... of `rows`; `set` of the accumulators.
  const auto step = [&](Index group, auto k, auto set, int rows) ATTNBENCH_INLINED {
    V x[E::kStep][kGroups], y[kVectors];
    Unroll<E::kStep>([&](auto s) ATTNBENCH_INLINED {
      const T* const row = v[group + k + s];
      Unroll<kGroups>([&](auto g) ATTNBENCH_INLINED {
        if (s >= rows) {
          x[s][g] = hn::Zero(d);
        } else if constexpr (kPartial && g == kGroups - 1) {
          x[s][g] = in_order.LoadN(d, row + g * kPer, last);
        } else if constexpr (kAsk) {
          v.Fetch(row + g * kPer);
          x[s][g] = InRegister(hn::LoadU(d, row + g * kPer));
        } else {
          x[s][g] = in_order.Load(d, row + g * kPer);
        }
      });
    });
    E::Combine(x, y);
    Unroll<kCount>([&](auto r) ATTNBENCH_INLINED {
      const auto w = InRegister<(kVectors > 1)>(
          E::Broadcast(weights + group * kPlaces<kRows> + (kFirst + r) * kKeys + k));
      Unroll<kVectors>(
          [&](auto x) ATTNBENCH_INLINED { acc[set][r][x] = E::MulAdd(w, y[x], acc[set][r][x]); });
    });
  };
  Index j = 0;
  for (; j + kKeys <= keys; j += kKeys) {
    Unroll<kKeys / E::kStep>([&](auto i) ATTNBENCH_INLINED {
      step(j, std::integral_constant<int, i * E::kStep>(), std::integral_constant<int, i % kSets>(),
           E::kStep);
    });
  }
  for (int k = 0; k < keys - j; k += E::kStep)
    step(j, k, std::integral_constant<int, 0>(), std::min<int>(E::kStep, keys - j - k));
  Unroll<kCount>([&](auto r) ATTNBENCH_INLINED {
    Unroll<kVectors>([&](auto x) ATTNBENCH_INLINED {
      VF sum = acc[0][r][x];
      if constexpr (kSets == 2) sum = hn::Add(sum, acc[1][r][x]);
      hn::Store(sum, df, place(r, x));
    });
  });
}

// Groups of columns of a whole panel: 16 accumulators of 32 registers (24 for three rows), 8 of 16.
template <int kCount, class T>
constexpr int kPanelGroups = std::max(1, std::min(8, (kLanes < 16   ? 8
                                                      : kCount == 3 ? 24
                                                                    : 16) /
                                                         kCount) /
                                             Values<T>::kWide);

// kCount rows from kFirst on, all columns; sums is [kRows][stride], whole vectors.
template <int kRows, int kFirst, int kCount, bool kAsk, class T>
HWY_INLINE void AddRows(const typename Values<T>::Weight* HWY_RESTRICT weights, const Rows<T>& v,
                        Index keys, float* HWY_RESTRICT sums, Index stride) {
  constexpr int kPer = Values<T>::kWide * kLanes, kGroups = kPanelGroups<kCount, T>;
  Index c = 0;
  const auto panel = [&](auto groups, auto partial) ATTNBENCH_INLINED {
    AddPanel<kRows, kFirst, kCount, kAsk, groups, partial, T>(
        weights, {v.data + c, v.stride, v.columns - c, v.ahead}, keys, sums + c, stride);
    c += groups * kPer;
  };
  while (c + kGroups * kPer <= v.columns)
    panel(std::integral_constant<int, kGroups>(), std::false_type());
  if constexpr (kGroups > 4) {
    if (c + 4 * kPer <= v.columns) panel(std::integral_constant<int, 4>(), std::false_type());
  }
  if constexpr (kGroups > 2) {
    if (c + 2 * kPer <= v.columns) panel(std::integral_constant<int, 2>(), std::false_type());
  }
  while (c + kPer <= v.columns) panel(std::integral_constant<int, 1>(), std::false_type());
  if (c < v.columns) panel(std::integral_constant<int, 1>(), std::true_type());
}

// `far`: V comes from memory, not from a cache. Rows in lanes read it line after line if all is one
// panel, nearly so if its rows are short. Else, from far, panels take turns every few keys, whose
// lines the first-level cache still holds: 32 accumulators, of four rows of 8 vectors, are too
// many, so three rows are served at a time, then the last. Rows longer than a panel are no stream
// to the hardware's prefetchers: a turn of them is asked for. From near, a turn's beginning and end
// cost more than the order of lines: panels are as long as the run.
template <class T>
constexpr Index kTurnKeys = 32 / sizeof(T);

template <int kRows, class T>
HWY_INLINE void AddValues(const typename Values<T>::Weight* HWY_RESTRICT weights, const Rows<T>& v,
                          Index keys, bool far, float* HWY_RESTRICT sums, Index stride) {
  constexpr Index kLine = 64 / sizeof(T), kPer = Values<T>::kWide * kLanes;
  constexpr bool kAsk = kRows >= 4 || kRowsInBlocks<kRows>;
  const Index groups = v.columns / kPer;
  const bool one_panel = v.columns % kPer == 0 && groups <= kPanelGroups<kRows, T> &&
                         std::has_single_bit(static_cast<std::size_t>(groups));
  if (kRowsInBlocks<kRows> || (!far && !one_panel))
    return AddRows<kRows, 0, kRows, kAsk>(weights, v, keys, sums, stride);
  if constexpr (!kRowsInBlocks<kRows>) {
    if (one_panel || v.columns < 4 * kLine)
      return AddRows<kRows, 0, kRows, false>(weights, v, keys, sums, stride);
    constexpr int kFirst = std::min(kRows, 3);
    const bool longer = groups > kPanelGroups<kFirst, T>;
    for (Index j = 0; j < keys; j += kTurnKeys<T>) {
      const Rows<T> turn = {v[j], v.stride, v.columns, v.ahead};
      const auto* const w = weights + j * kPlaces<kRows>;
      const Index count = std::min(kTurnKeys<T>, keys - j);
      for (Index i = 0; longer && i < count; ++i) {
        for (Index c = 0; c < v.columns; c += kLine) v.Fetch(turn[i] + c);
      }
      AddRows<kRows, 0, kFirst, false>(w, turn, count, sums, stride);
      if constexpr (kRows == 4) AddRows<kRows, 3, 1, false>(w, turn, count, sums, stride);
    }
  }
}

}  // namespace decode
}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
