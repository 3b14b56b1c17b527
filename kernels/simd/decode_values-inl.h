// SPDX-License-Identifier: Apache-2.0
// The outputs of a few query rows: weights times V over a run of keys. Lanes hold columns of V,
// sums stay in registers over the whole run, and a vector of V that is loaded serves all rows of
// the tile. Weights come in the order of LogitAt.

#if defined(ATTNBENCH_KERNELS_SIMD_DECODE_VALUES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_DECODE_VALUES_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_DECODE_VALUES_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_DECODE_VALUES_INL_H_
#endif

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
  template <bool kPartial, bool kReused>
  static HWY_INLINE void Load(const float* row, const float*, Index count, VF (&y)[1]) {
    y[0] = InRegister<kReused>(kPartial ? hn::LoadN(DF(), row, count) : hn::LoadU(DF(), row));
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
  template <bool kPartial, bool>
  static HWY_INLINE void Load(const BF16* row, const BF16* next, Index count, VBF (&y)[2]) {
    const hn::RebindToUnsigned<DBF> du;
    const DBF d;
    const auto load = [&](const BF16* from) ATTNBENCH_INLINED {
      return hn::BitCast(du, kPartial ? hn::LoadN(d, from, count) : hn::LoadU(d, from));
    };
    const auto a = load(row), b = next ? load(next) : hn::Zero(du);
    y[0] = hn::BitCast(d, hn::InterleaveLower(du, a, b));
    y[1] = hn::BitCast(d, hn::InterleaveUpper(du, a, b));
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

// Panel of kGroups groups of columns: out[r] = out[r] * correction[r] + sum_j w[r][j] v[j]. The sum
// starts from zero in every run: one that goes on through all of them errs more the longer it is.
template <int kRows, int kGroups, bool kPartial, class T>
HWY_INLINE void AddPanel(const typename Values<T>::Weight* HWY_RESTRICT weights, const Rows<T>& v,
                         Index keys, const float* HWY_RESTRICT correction, float* HWY_RESTRICT out,
                         Index out_stride, Ahead& shared) {
  Ahead ahead = shared;  // in registers
  using E = Values<T>;
  constexpr int kKeys = kGroup<kRows>, kVectors = kGroups * E::kWide;
  constexpr int kPer = E::kWide * kLanes;
  // A multiply-add takes 4 cycles: few accumulators are doubled.
  constexpr int kSets = kRows * kVectors <= 4 ? 2 : 1;
  const DF df;
  const Index last = v.columns - (kGroups - 1) * kPer;
  VF acc[kSets][kRows][kVectors];
  Unroll<kSets>([&](auto s) ATTNBENCH_INLINED {
    Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
      Unroll<kVectors>([&](auto x) ATTNBENCH_INLINED { acc[s][r][x] = hn::Zero(df); });
    });
  });
  const auto step = [&](Index j, auto k, bool pair) ATTNBENCH_INLINED {
    constexpr int set = k / E::kStep % kSets;
    const T* row = v[j + k];
    const T* next = E::kStep == 2 && pair ? row + v.stride : nullptr;
    decltype(E::Broadcast(weights)) y[kGroups][E::kWide];
    Unroll<kGroups>([&](auto g) ATTNBENCH_INLINED {
      E::template Load<kPartial && g == kGroups - 1, (kRows > 1)>(
          row + g * kPer, next ? next + g * kPer : next, last, y[g]);
    });
    Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
      const auto w = InRegister<(kVectors > 1)>(E::Broadcast(weights + j * kRows + r * kKeys + k));
      Unroll<kVectors>([&](auto x) ATTNBENCH_INLINED {
        acc[set][r][x] = E::MulAdd(w, y[x / E::kWide][x % E::kWide], acc[set][r][x]);
      });
    });
  };
  Index j = 0;
  for (; j + kKeys <= keys; j += kKeys) {
    Unroll<kKeys / E::kStep>([&](auto k) ATTNBENCH_INLINED {
      ahead.Fetch();
      step(j, std::integral_constant<int, k * E::kStep>(), true);
    });
  }
  if (j < keys) {
    Unroll<kKeys / E::kStep>([&](auto k) ATTNBENCH_INLINED {
      constexpr int at = k * E::kStep;
      if (j + at < keys) step(j, std::integral_constant<int, at>(), j + at + 1 < keys);
    });
  }
  Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
    const VF factor = hn::Set(df, correction[r]);
    Unroll<kVectors>([&](auto x) ATTNBENCH_INLINED {
      VF sum = acc[0][r][x];
      if constexpr (kSets == 2) sum = hn::Add(sum, acc[1][r][x]);
      float* const to = out + r * out_stride + x * kLanes;
      hn::Store(hn::MulAdd(factor, hn::Load(df, to), sum), df, to);
    });
  });
  shared = ahead;
}

// Groups of columns of a whole panel: 16 accumulators of 32 registers, 8 of 16; eight vectors a row
// keep its lines together.
template <int kRows, class T>
constexpr int kPanelGroups =
    std::max(1, std::min(8, (kLanes == 16 ? 16 : 8) / kRows) / Values<T>::kWide);

// Calls of Ahead::Fetch in AddValues, about.
template <int kRows, class T>
constexpr Index ValueSteps(Index keys, Index columns) {
  constexpr Index kPer = kPanelGroups<kRows, T> * Values<T>::kWide * kLanes;
  return (columns + kPer - 1) / kPer * ((keys + Values<T>::kStep - 1) / Values<T>::kStep);
}

// All columns; out is [kRows][out_stride], whole vectors.
template <int kRows, class T>
HWY_INLINE void AddValues(const typename Values<T>::Weight* HWY_RESTRICT weights, const Rows<T>& v,
                          Index keys, const float* HWY_RESTRICT correction, float* HWY_RESTRICT out,
                          Index out_stride, Ahead& ahead) {
  constexpr int kPer = Values<T>::kWide * kLanes, kGroups = kPanelGroups<kRows, T>;
  Index c = 0;
  const auto panel = [&](auto groups, auto partial) ATTNBENCH_INLINED {
    AddPanel<kRows, groups, partial, T>(weights, {v.data + c, v.stride, v.columns - c}, keys,
                                        correction, out + c, out_stride, ahead);
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

}  // namespace decode
}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
