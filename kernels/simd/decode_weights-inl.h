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
  float* sum;         // of the weights
  float* check;       // of the logits: not finite if one of them is not
  float* correction;  // a float a row: what the output so far must be multiplied by, if any moved
};

// Moves references that a logit passes by more than 2^16: no reduction across lanes, no rescaling
// for most runs. Whether any moved.
template <int kRows>
HWY_INLINE bool MoveReferences(const VF* max, VF scale, const RowState& s) {
  const DF df;
  constexpr int kVectors = kGroupVectors<kRows>, kKeys = kGroup<kRows>;
  bool stay = true;
  Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
    const VF bound = hn::Add(hn::Load(df, s.reference + v * kLanes), hn::Set(df, 16.0f));
    stay = stay && hn::AllTrue(df, hn::Le(hn::Mul(max[v], scale), bound));
  });
  if (HWY_LIKELY(stay)) return false;
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
    for (int i = 0; i < kKeys; ++i) {
      reference[i] = now;
      s.sum[r * kKeys + i] *= s.correction[r];
    }
  }
  return true;
}

// The weights of `keys` keys in the place of their logits; bf16 ones lie packed at its beginning.
// Whether references moved.
template <int kRows, class T>
HWY_INLINE bool ToWeights(const VF* max, float factor, Index keys, float* HWY_RESTRICT logits,
                          const RowState& s) {
  const DF df;
  constexpr int kVectors = kGroupVectors<kRows>, kKeys = kGroup<kRows>;
  const VF scale = hn::Set(df, factor);
  const bool moved = MoveReferences<kRows>(max, scale, s);
  VF shift[kVectors], sum[kVectors];
  Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
    shift[v] = hn::Load(df, s.reference + v * kLanes);
    shift[v] = hn::IfThenElse(hn::Eq(shift[v], hn::Set(df, kNegInf)), hn::Zero(df), shift[v]);
    sum[v] = hn::Load(df, s.sum + v * kLanes);
  });
  for (Index j = 0; j < keys; j += kKeys) {
    Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
      const Index at = j * kPlaces<kRows> + v * kLanes;
      const VF x = hn::MulSub(hn::Load(df, logits + at), scale, shift[v]);
      if constexpr (std::is_same_v<T, BF16>) {
        // Rounded half up: to nearest but for ties. The sum is that of the rounded weights.
        const hn::RebindToUnsigned<DF> du;
        const hn::Rebind<std::uint16_t, DF> d16;
        const auto bits = hn::Add(hn::BitCast(du, Exp2<3>(df, x)), hn::Set(du, 0x8000u));
        sum[v] = hn::Add(sum[v], hn::BitCast(df, hn::And(bits, hn::Set(du, 0xffff0000u))));
        hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(bits)), d16,
                   reinterpret_cast<std::uint16_t*>(logits) + at);
      } else {
        const VF w = Exp2<5>(df, x);
        sum[v] = hn::Add(sum[v], w);
        hn::Store(w, df, logits + at);
      }
    });
  }
  Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED { hn::Store(sum[v], df, s.sum + v * kLanes); });
  return moved;
}

}  // namespace decode
}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
