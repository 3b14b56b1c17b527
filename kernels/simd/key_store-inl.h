// SPDX-License-Identifier: Apache-2.0
// Makes the rows of one KV head readable for Attender<T>. In place where that can be (float32);
// else by a copy: values of bf16 interleaved in pairs of rows, bf16 promoted to float32 where there
// is no dot instruction, and rows gathered from a stride.

#if defined(ATTNBENCH_KERNELS_SIMD_KEY_STORE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_KEY_STORE_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_KEY_STORE_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_KEY_STORE_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/simd/attend.h"
#include "kernels/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

// Whether bf16 problems run as Attender<BFloat16>; float32 ones, and bf16 elsewhere, as <float>.
constexpr bool kNativeBF16 = HWY_TARGET <= HWY_AVX3_ZEN4;

// Row r of a store is key first + r * step. Buffers are null for what is read in place.
template <class T>
struct KeyStore {
  T* k = nullptr;
  T* v = nullptr;

  static constexpr bool kPairs = std::is_same_v<T, BFloat16>;
  static Index KColumns(const Problem& p) { return kPairs ? (p.head_dim + 1) / 2 * 2 : p.head_dim; }
  static Index Even(Index rows) { return kPairs ? (rows + 1) / 2 * 2 : rows; }

  // For `rows` rows. gather: rows do not lie a constant row stride apart that is worth reading in
  // place, so everything is copied.
  static KeyStore Take(const Problem& p, Index rows, bool gather, Arena* arena) {
    KeyStore store;
    const bool promote = p.dtype == DType::kBF16 && !kPairs;
    if (gather || promote || p.head_dim != KColumns(p))
      store.k = arena->Take<T>(rows * KColumns(p));
    if (gather || promote || kPairs) store.v = arena->Take<T>(Even(rows) * p.v_dim);
    return store;
  }

  // Where rows from `row` on (even for bf16) begin, of a store taken for several heads at once.
  KeyStore At(const Problem& p, Index row) const {
    return {k ? k + row * KColumns(p) : nullptr, v ? v + row * p.v_dim : nullptr};
  }

  // Copies rows [begin, end) of the store; begin even for bf16. Row `end` is zeroed where it is the
  // other half of a pair.
  void Fill(const Problem& p, const Inputs& in, Index b, Index g, Index first, Index step,
            Index begin, Index end) const {
    const Index d = KColumns(p);
    for (Index r = begin; r < end && k; ++r) {
      const Index key = first + r * step;
      if (r + kAhead < end) Fetch(in.k, b, g, key + kAhead * step, p.head_dim);
      T* to = k + r * d;
      if (p.dtype == DType::kBF16)
        Copy(in.k.Row<BFloat16>(b, g, key), p.head_dim, to);
      else if constexpr (!kPairs)
        Copy(in.k.Row<float>(b, g, key), p.head_dim, to);
      if (d != p.head_dim) to[p.head_dim] = T{};
    }
    if (!v) return;
    if constexpr (kPairs) {
      for (Index r = begin; r < end; r += 2) {
        for (Index i = kAhead; i < kAhead + 2 && r + i < end; ++i)
          Fetch(in.v, b, g, first + (r + i) * step, p.v_dim);
        const BFloat16* even = in.v.Row<BFloat16>(b, g, first + r * step);
        const BFloat16* odd =
            r + 1 < end ? in.v.Row<BFloat16>(b, g, first + (r + 1) * step) : nullptr;
        Interleave(even, odd, p.v_dim, v + r * p.v_dim);
      }
    } else {
      for (Index r = begin; r < end; ++r) {
        if (r + kAhead < end) Fetch(in.v, b, g, first + (r + kAhead) * step, p.v_dim);
        if (p.dtype == DType::kBF16)
          Copy(in.v.Row<BFloat16>(b, g, first + r * step), p.v_dim, v + r * p.v_dim);
        else
          Copy(in.v.Row<float>(b, g, first + r * step), p.v_dim, v + r * p.v_dim);
      }
    }
  }

  // Rows 0 ... of the store; of a store in place, key first is row 0.
  KeySource<T> Source(const Problem& p, const Inputs& in, Index b, Index g, Index first = 0) const {
    KeySource<T> source;
    if (k)
      source.k = k, source.k_stride = KColumns(p);
    else
      source.k = in.k.Row<T>(b, g, first), source.k_stride = in.k.row_stride;
    if (v)
      source.v = v, source.v_stride = p.v_dim;
    else
      source.v = in.v.Row<T>(b, g, first), source.v_stride = in.v.row_stride;
    return source;
  }

 private:
  // Rows far apart are not fetched ahead by the hardware.
  static constexpr Index kAhead = 8;
  static void Fetch(const ConstTensor& t, Index b, Index g, Index row, Index columns) {
    const Index bytes = static_cast<Index>(SizeOf(t.dtype));
    const std::byte* from = static_cast<const std::byte*>(t.data) +
                            (b * t.batch_stride + g * t.head_stride + row * t.row_stride) * bytes;
    for (Index at = 0; at < columns * bytes; at += 64) __builtin_prefetch(from + at);
  }

  static void Copy(const T* from, Index count, T* to) { std::copy_n(from, count, to); }
  template <class TI>
  static HWY_INLINE void Copy(const TI* from, Index count, float* to) {
    Index c = 0;
    for (; c + 4 <= count; c += 4) Store4(Load4(from + c), to + c);
    for (; c < count; ++c) to[c] = from[c].ToFloat();
  }
  // Two rows into pairs; without the second, zeros.
  static HWY_INLINE void Interleave(const BFloat16* even, const BFloat16* odd, Index count,
                                    BFloat16* to) {
    const hn::ScalableTag<std::uint16_t> d;
    constexpr Index kStep = 2 * kLanes;
    const auto bits = [](auto* x) { return reinterpret_cast<const std::uint16_t*>(x); };
    Index c = 0;
    for (; c + kStep <= count; c += kStep) {
      const auto a = hn::LoadU(d, bits(even + c));
      const auto b = odd ? hn::LoadU(d, bits(odd + c)) : hn::Zero(d);
      auto* pairs = reinterpret_cast<std::uint16_t*>(to + 2 * c);
      hn::StoreU(hn::InterleaveWholeLower(d, a, b), d, pairs);
      hn::StoreU(hn::InterleaveWholeUpper(d, a, b), d, pairs + kStep);
    }
    for (; c < count; ++c) {
      to[2 * c] = even[c];
      to[2 * c + 1] = odd ? odd[c] : BFloat16{};
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
