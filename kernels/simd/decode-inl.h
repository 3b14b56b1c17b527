// SPDX-License-Identifier: Apache-2.0
// A few query rows against a run of keys, as decoding needs it. Lanes hold the head dimension, so
// K and V are streamed row by row exactly as they lie in memory, nothing is packed, and each vector
// of K or V that is loaded serves all rows of the block.
//
// Register tile of the logits: kLanes accumulators (rows x kLanes/rows keys), which a tree of
// interleaves turns into one vector: two shuffles and an add an accumulator. Logits and weights
// stay in that order (lane row * keys_per_group + key), so maximum, exp and sum are lane-wise.
//
// f32, and bf16 where the target multiplies bf16 pairs natively; elsewhere the caller widens bf16.

// Per-target include guard.
#if defined(ATTNBENCH_KERNELS_SIMD_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_DECODE_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_DECODE_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_DECODE_INL_H_
#endif

#include <algorithm>
#include <limits>
#include <type_traits>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/contract/tensor.h"
#include "kernels/simd/exp2-inl.h"
#include "kernels/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace decode {

using BF16 = hwy::bfloat16_t;
using DBF = hn::ScalableTag<BF16>;
using VBF = hn::Vec<DBF>;
constexpr float kNegInf = -std::numeric_limits<float>::infinity();

// Keeps a loaded vector in a register. The compiler would rather load it again as an operand of
// each multiply-add, and loads are what a core has least of (Zen 4: one of 512 bits a cycle):
// 68 % of the arithmetic peak became 82 %. Not for what is used once: one row that kept its loads,
// with two or four keys together, streamed 13 GB/s instead of 22.
template <bool kReused = true, class V>
HWY_INLINE V InRegister(V v) {
#if HWY_ARCH_X86
  if constexpr (kReused) asm("" : "+x"(v.raw));
#endif
  return v;
}

// ---- Sums across lanes

// Sums of four accumulators within each block of four lanes.
HWY_INLINE VF AddLanes(VF a, VF b, VF c, VF d) {
  const DF df;
  const hn::RepartitionToWide<DF> dd;
  const VF ab = hn::Add(hn::InterleaveLower(df, a, b), hn::InterleaveUpper(df, a, b));
  const VF cd = hn::Add(hn::InterleaveLower(df, c, d), hn::InterleaveUpper(df, c, d));
  const auto x = hn::BitCast(dd, ab), y = hn::BitCast(dd, cd);
  return hn::Add(hn::BitCast(df, hn::InterleaveLower(dd, x, y)),
                 hn::BitCast(df, hn::InterleaveUpper(dd, x, y)));
}
// Pairs of neighbouring blocks: a's sum to the even block, b's to the odd one.
HWY_INLINE VF AddNeighbours(VF a, VF b) {
  return hn::Add(hn::OddEvenBlocks(b, a), hn::SwapAdjacentBlocks(hn::OddEvenBlocks(a, b)));
}
// Lane i of the result is the sum over the lanes of acc[i].
HWY_INLINE VF SumAcross(const VF (&acc)[kLanes]) {
  const VF s0 = AddLanes(acc[0], acc[1], acc[2], acc[3]);
  if constexpr (kLanes == 16) {
    const DF df;
    const VF s1 = AddLanes(acc[4], acc[5], acc[6], acc[7]);
    const VF s2 = AddLanes(acc[8], acc[9], acc[10], acc[11]);
    const VF s3 = AddLanes(acc[12], acc[13], acc[14], acc[15]);
    // Halves first, so that blocks of s0 s1 s2 s3 come out in order.
    return AddNeighbours(
        hn::Add(hn::ConcatLowerLower(df, s2, s0), hn::ConcatUpperUpper(df, s2, s0)),
        hn::Add(hn::ConcatLowerLower(df, s3, s1), hn::ConcatUpperUpper(df, s3, s1)));
  } else if constexpr (kLanes == 8) {
    return AddNeighbours(s0, AddLanes(acc[4], acc[5], acc[6], acc[7]));
  } else {
    return s0;
  }
}

// ---- Element types

template <class T>
struct Element;
template <>
struct Element<float> {
  using D = DF;
  static constexpr int kPerVector = kLanes;
  static HWY_INLINE VF Dot(VF a, VF b, VF sum) { return hn::MulAdd(a, b, sum); }
};
template <>
struct Element<BF16> {
  using D = DBF;
  static constexpr int kPerVector = 2 * kLanes;
  // Both products of a pair go to `sum` where the dot is native; the second sum then stays zero.
  static HWY_INLINE VF Dot(VBF a, VBF b, VF sum) {
    VF none = hn::Zero(DF());
    return hn::ReorderWidenMulAccumulate(DF(), a, b, sum, none);
  }
};

// Rows of K or V.
template <class T>
struct Rows {
  const T* data;
  Index stride, columns;  // elements
  HWY_INLINE const T* operator[](Index row) const { return data + row * stride; }
};

// What to fetch from memory meanwhile: of each row its share of lines, a row for each row worked
// on, in `turns` turns.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const char* data, Index stride, Index bytes, Index rows, Index turns)
      : data_(data), stride_(stride), lines_((bytes + 63) / 64), rows_(rows), turns_(turns) {
    Advance();
  }
  void Advance() {
    begin_ = 64 * (lines_ * turn_ / turns_);
    end_ = 64 * (lines_ * (turn_ + 1) / turns_);
    ++turn_;
  }
  // The share of parts [from, to) of `all`.
  Ahead Part(Index from, Index to, Index all) const {
    Ahead part = *this;
    const Index lines = (end_ - begin_) / 64;
    part.begin_ = begin_ + lines * std::min(from, all) / all * 64;
    part.end_ = begin_ + lines * std::min(to, all) / all * 64;
    return part;
  }
  HWY_INLINE void Fetch(Index first, Index count) const {
    // Into the second-level cache: into the first, as many as a core can have under way there
    // (14 GB/s of 30) is all that memory would give.
    for (Index row = first; row < std::min(first + count, rows_); ++row)
      for (Index i = begin_; i < end_; i += 64) __builtin_prefetch(data_ + row * stride_ + i, 0, 2);
  }

 private:
  const char* data_ = nullptr;
  Index stride_ = 0, lines_ = 0, rows_ = 0;
  Index turns_ = 1, turn_ = 0, begin_ = 0, end_ = 0;
};

// ---- Logits

// Logits of kCount rows against `keys` keys, unscaled. q is [kCount][q_stride], zero-padded to
// whole vectors. Lanes beyond the last key are -inf. Returns the lane-wise maximum.
template <int kCount, class T>
HWY_INLINE VF Logits(const T* HWY_RESTRICT q, Index q_stride, const Rows<T>& k, Index keys,
                     float* HWY_RESTRICT logits, const Ahead& ahead) {
  constexpr int kKeys = kLanes / kCount;
  using E = Element<T>;
  const typename E::D d;
  const DF df;
  const Index whole = k.columns / E::kPerVector * E::kPerVector;
  const Index rest = k.columns - whole;
  using V = hn::Vec<typename E::D>;
  // Few keys at a time: memory is read nearly in order. One row alone takes them one by one.
  constexpr int kTogether = kCount == 1 ? 1 : std::min(4, kKeys);
  VF max = hn::Set(df, kNegInf);
  for (Index j = 0; j < keys; j += kKeys) {
    ahead.Fetch(j, kKeys);
    const T* row[kKeys];
    Unroll<kKeys>([&](auto i) ATTNBENCH_INLINED { row[i] = k[std::min(j + i, keys - 1)]; });
    VF acc[kLanes];
    Unroll<kLanes>([&](auto i) ATTNBENCH_INLINED { acc[i] = hn::Zero(df); });
    Unroll<kKeys / kTogether>([&](auto group) ATTNBENCH_INLINED {
      for (Index c = 0; c < whole; c += E::kPerVector) {
        V x[kCount];
        Unroll<kCount>([&](auto r) ATTNBENCH_INLINED {
          x[r] = InRegister<(kTogether > 1)>(hn::Load(d, q + r * q_stride + c));
        });
        Unroll<kTogether>([&](auto t) ATTNBENCH_INLINED {
          constexpr int i = group * kTogether + t;
          const V y = InRegister<(kCount > 1)>(hn::LoadU(d, row[i] + c));
          Unroll<kCount>([&](auto r) ATTNBENCH_INLINED {
            acc[r * kKeys + i] = E::Dot(y, x[r], acc[r * kKeys + i]);
          });
        });
      }
    });
    if (HWY_UNLIKELY(rest != 0)) {
      Unroll<kKeys>([&](auto i) ATTNBENCH_INLINED {
        const auto y = hn::LoadN(d, row[i] + whole, rest);
        Unroll<kCount>([&](auto r) ATTNBENCH_INLINED {
          const auto x = hn::Load(d, q + r * q_stride + whole);
          acc[r * kKeys + i] = E::Dot(y, x, acc[r * kKeys + i]);
        });
      });
    }
    VF sums = SumAcross(acc);
    if (HWY_UNLIKELY(j + kKeys > keys)) {
      const hn::RebindToSigned<DF> di;
      const auto key = hn::And(hn::Iota(di, 0), hn::Set(di, kKeys - 1));
      const auto beyond = hn::Ge(key, hn::Set(di, static_cast<int>(keys - j)));
      sums = hn::IfThenElse(hn::RebindMask(df, beyond), hn::Set(df, kNegInf), sums);
    }
    hn::Store(sums, df, logits + j * kCount);
    max = hn::Max(max, sums);
  }
  return max;
}

// Place of a row's logit for key j.
template <int kCount>
constexpr Index LogitAt(int row, Index j) {
  constexpr int kKeys = kLanes / kCount;
  return j / kKeys * kLanes + row * kKeys + j % kKeys;
}

// ---- Output

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
  // Columns come out permuted within 8: AddValues' output is in the order of WideColumn.
  template <bool kPartial, bool>
  static HWY_INLINE void Load(const BF16* row, const BF16* next, Index count, VBF (&y)[2]) {
    const hn::RebindToUnsigned<DBF> du;
    const DBF d;
    const auto a = hn::BitCast(du, kPartial ? hn::LoadN(d, row, count) : hn::LoadU(d, row));
    const auto b = !next
                       ? hn::Zero(du)
                       : hn::BitCast(du, kPartial ? hn::LoadN(d, next, count) : hn::LoadU(d, next));
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

// Panel of kGroups groups of columns: out[r] = out[r] * correction[r] + sum_j w[r][j] v[j].
template <int kCount, int kGroups, bool kPartial, class T>
HWY_INLINE void AddPanel(const typename Values<T>::Weight* HWY_RESTRICT weights, const Rows<T>& v,
                         Index keys, const float* HWY_RESTRICT correction, float* HWY_RESTRICT out,
                         Index out_stride, const Ahead& ahead) {
  using E = Values<T>;
  constexpr int kKeys = kLanes / kCount, kVectors = kGroups * E::kWide;
  constexpr int kPer = E::kWide * kLanes;
  // A multiply-add takes 4 cycles: few accumulators are doubled.
  constexpr int kSets = kCount * kVectors <= 4 ? 2 : 1;
  const DF df;
  const Index last = v.columns - (kGroups - 1) * kPer;
  VF acc[kSets][kCount][kVectors];
  Unroll<kCount>([&](auto r) ATTNBENCH_INLINED {
    const VF factor = hn::Set(df, correction[r]);
    Unroll<kVectors>([&](auto x) ATTNBENCH_INLINED {
      acc[0][r][x] = hn::Mul(factor, hn::Load(df, out + r * out_stride + x * kLanes));
      if constexpr (kSets == 2) acc[1][r][x] = hn::Zero(df);
    });
  });
  const auto step = [&](Index j, auto k, auto set, bool pair) ATTNBENCH_INLINED {
    const T* row = v[j + k];
    const T* next = E::kStep == 2 && pair ? row + v.stride : nullptr;
    Unroll<kGroups>([&](auto g) ATTNBENCH_INLINED {
      decltype(E::Broadcast(weights)) y[E::kWide];
      E::template Load<kPartial && g == kGroups - 1, (kCount > 1)>(
          row + g * kPer, next ? next + g * kPer : next, last, y);
      Unroll<kCount>([&](auto r) ATTNBENCH_INLINED {
        const auto w = E::Broadcast(weights + j * kCount + r * kKeys + k);
        Unroll<E::kWide>([&](auto x) ATTNBENCH_INLINED {
          constexpr int at = g * E::kWide + x;
          acc[set][r][at] = E::MulAdd(w, y[x], acc[set][r][at]);
        });
      });
    });
  };
  Index j = 0;
  for (; j + kKeys <= keys; j += kKeys) {
    ahead.Fetch(j, kKeys);
    Unroll<kKeys / E::kStep>([&](auto k) ATTNBENCH_INLINED {
      step(j, std::integral_constant<int, k * E::kStep>(), std::integral_constant<int, k % kSets>(),
           true);
    });
  }
  if (j < keys) {
    ahead.Fetch(j, kKeys);
    Unroll<kKeys / E::kStep>([&](auto k) ATTNBENCH_INLINED {
      constexpr int at = k * E::kStep;
      if (j + at < keys)
        step(j, std::integral_constant<int, at>(), std::integral_constant<int, 0>(),
             j + at + 1 < keys);
    });
  }
  Unroll<kCount>([&](auto r) ATTNBENCH_INLINED {
    Unroll<kVectors>([&](auto x) ATTNBENCH_INLINED {
      VF sum = acc[0][r][x];
      if constexpr (kSets == 2) sum = hn::Add(sum, acc[1][r][x]);
      hn::Store(sum, df, out + r * out_stride + x * kLanes);
    });
  });
}

// All columns. Weights are in the order of Logits; out is [kCount][out_stride], whole vectors.
template <int kCount, class T>
HWY_INLINE void AddValues(const typename Values<T>::Weight* HWY_RESTRICT weights, const Rows<T>& v,
                          Index keys, const float* HWY_RESTRICT correction, float* HWY_RESTRICT out,
                          Index out_stride, const Ahead& ahead) {
  constexpr int kPer = Values<T>::kWide * kLanes;
  // 16 accumulators of 32 registers, 8 of 16; eight vectors a row keep its lines together.
  constexpr int kGroups =
      std::max(1, std::min(8, (kLanes == 16 ? 16 : 8) / kCount) / Values<T>::kWide);
  Index c = 0;
  const auto panel = [&](auto groups, auto partial) ATTNBENCH_INLINED {
    AddPanel<kCount, groups, partial, T>(weights, {v.data + c, v.stride, v.columns - c}, keys,
                                         correction, out + c, out_stride,
                                         ahead.Part(c, c + groups * kPer, v.columns));
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
