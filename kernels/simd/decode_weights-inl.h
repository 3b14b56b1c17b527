// SPDX-License-Identifier: Apache-2.0
// From logits to weights, a run of keys at a time: what an online softmax keeps of each row.

#if defined(ATTNBENCH_KERNELS_SIMD_DECODE_WEIGHTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_DECODE_WEIGHTS_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_DECODE_WEIGHTS_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_DECODE_WEIGHTS_INL_H_
#endif

#include <cmath>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/simd/decode_scores-inl.h"
#include "kernels/simd/exp2-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace decode {

// Of a tile's rows, in the lanes of its logits' vectors (kGroupVectors of them).
struct RowState {
  float* reference;   // log2: weights are relative to 2 to it. -inf: no key yet
  float* sum;         // of the weights; those of bf16 as SumRow tells
  float* check;       // of the logits: not finite if one of them is not
  float* correction;  // a float a row: what the output so far must be multiplied by, if any moved
};

// Lanes of the sum, and the row to which one belongs. f32: as logits lie. bf16: of pairs of logits,
// as two vectors of them become one.
template <int kRows, class T>
constexpr int kSumLanes = std::is_same_v<T, BF16> ? kLanes : kGroupVectors<kRows> * kLanes;
template <int kRows, class T>
constexpr int SumRow(int lane) {
  constexpr int kWide = std::is_same_v<T, BF16> ? 2 : 1;
  return lane * kWide % (kGroupVectors<kRows> * kLanes) / kGroup<kRows>;
}

// Whether no logit passes its row's reference by more than 2^16: then weights relative to it will
// do, with no reduction across lanes and no rescaling.
template <int kRows>
HWY_INLINE bool Within(const VF* max, VF scale, const RowState& s) {
  const DF df;
  bool within = true;
  Unroll<kGroupVectors<kRows>>([&](auto v) ATTNBENCH_INLINED {
    const VF bound = hn::Add(hn::Load(df, s.reference + v * kLanes), hn::Set(df, 16.0f));
    within = within && hn::AllTrue(df, hn::Le(hn::Mul(max[v], scale), bound));
  });
  return within;
}

// The maximum of `keys` keys' logits. Several chains: one waits 3 cycles for every vector.
template <int kRows>
HWY_INLINE void MaxOf(const float* HWY_RESTRICT logits, Index keys, VF* max) {
  const DF df;
  constexpr int kVectors = kGroupVectors<kRows>, kChains = 4;
  const Index vectors = (keys + kGroup<kRows> - 1) / kGroup<kRows> * kVectors;
  VF chain[kChains];
  Unroll<kChains>([&](auto v) ATTNBENCH_INLINED { chain[v] = hn::Set(df, kNegInf); });
  Index i = 0;
  for (; i + kChains <= vectors; i += kChains) {
    Unroll<kChains>([&](auto v) ATTNBENCH_INLINED {
      chain[v] = hn::Max(chain[v], hn::Load(df, logits + (i + v) * kLanes));
    });
  }
  for (; i < vectors; i += kVectors) {
    Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
      chain[v] = hn::Max(chain[v], hn::Load(df, logits + (i + v) * kLanes));
    });
  }
  Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
    max[v] = chain[v];
    Unroll<kChains / kVectors - 1>([&](auto more) ATTNBENCH_INLINED {
      max[v] = hn::Max(max[v], chain[v + (more + 1) * kVectors]);
    });
  });
}

// Moves the references to the maximum so far.
template <int kRows, class T>
HWY_INLINE void MoveReferences(const VF* max, VF scale, const RowState& s) {
  const DF df;
  constexpr int kVectors = kGroupVectors<kRows>, kKeys = kGroup<kRows>;
  HWY_ALIGN float lanes[kVectors * kLanes];
  Unroll<kVectors>(
      [&](auto v) ATTNBENCH_INLINED { hn::Store(hn::Mul(max[v], scale), df, lanes + v * kLanes); });
  for (int r = 0; r < kPlaces<kRows>; ++r) {
    float* const reference = s.reference + r * kKeys;
    const float old = *reference;
    float now = old;
    for (int i = 0; i < kKeys; ++i) now = std::max(now, lanes[r * kKeys + i]);
    // Infinite logits make rows that are not finite; those are computed anew in the end.
    s.correction[r] = old > kNegInf ? std::exp2(old - now) : 1.0f;
    for (int i = 0; i < kKeys; ++i) reference[i] = now;
  }
  for (int i = 0; i < kSumLanes<kRows, T>; ++i) s.sum[i] *= s.correction[SumRow<kRows, T>(i)];
}

// The weights of `keys` keys in the place of their logits; bf16 ones lie packed at its beginning.
template <int kRows, class T>
HWY_INLINE void ToWeights(VF scale, Index keys, float* HWY_RESTRICT logits, const RowState& s) {
  const DF df;
  constexpr int kVectors = kGroupVectors<kRows>, kKeys = kGroup<kRows>;
  VF shift[kVectors], sum[kVectors];
  Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
    shift[v] = hn::Load(df, s.reference + v * kLanes);
    shift[v] = hn::IfThenElse(hn::Eq(shift[v], hn::Set(df, kNegInf)), hn::Zero(df), shift[v]);
    sum[v] = hn::Load(df, s.sum + v * kLanes);
  });
  const auto exponent = [&](Index at, auto v) ATTNBENCH_INLINED {
    return hn::MulSub(hn::Load(df, logits + at), scale, shift[v]);
  };
  const Index vectors = (keys + kKeys - 1) / kKeys * kVectors;
  if constexpr (std::is_same_v<T, BF16>) {
    // Two vectors at once; the sum is that of the rounded weights.
    constexpr int kSecond = kVectors - 1;
    const VBF ones = hn::BitCast(DBF(), hn::Set(hn::RebindToUnsigned<DF>(), 0x3f803f80));
    for (Index i = 0; i < vectors; i += 2) {
      const VF x = exponent(i * kLanes, std::integral_constant<int, 0>());
      const VF y = i + 1 < vectors
                       ? exponent((i + 1) * kLanes, std::integral_constant<int, kSecond>())
                       : hn::Set(df, kNegInf);
      const VBF w = hn::OrderedDemote2To(DBF(), Exp2<3>(df, x), Exp2<3>(df, y));
      sum[0] = Element<BF16>::Dot(w, ones, sum[0]);
      hn::StoreU(w, DBF(), reinterpret_cast<BF16*>(logits) + i * kLanes);
    }
  } else {
    for (Index i = 0; i < vectors; i += kVectors) {
      Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
        const VF w = Exp2<5>(df, exponent((i + v) * kLanes, v));
        sum[v] = hn::Add(sum[v], w);
        hn::Store(w, df, logits + (i + v) * kLanes);
      });
    }
  }
  Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED { hn::Store(sum[v], df, s.sum + v * kLanes); });
}

}  // namespace decode
}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
