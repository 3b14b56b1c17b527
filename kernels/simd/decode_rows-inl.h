// SPDX-License-Identifier: Apache-2.0
// Rows of K or V as decoding reads them, and in what order: whether the hardware's prefetchers see
// a stream decides the rate.

#if defined(ATTNBENCH_KERNELS_SIMD_DECODE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_DECODE_ROWS_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_DECODE_ROWS_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_DECODE_ROWS_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/contract/tensor.h"
#include "kernels/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace decode {

// Keeps a loaded vector in a register. The compiler would rather load it again as an operand of
// each multiply-add, and loads are what a core has least of (Zen 4: one of 512 bits a cycle).
// Not for what is used once.
template <bool kReused = true, class V>
HWY_INLINE V InRegister(V v) {
#if HWY_ARCH_X86
  if constexpr (kReused) asm("" : "+v"(v.raw));
#endif
  return v;
}

// Loads in just the order of the program. The compiler would rather load a row's last line before
// its first, and the hardware's prefetchers lose such a stream.
class InOrder {
 public:
  template <class D, class T>
  HWY_INLINE hn::Vec<D> Load(D d, const T* from) {
    return Next(hn::LoadU(d, from + zero_));
  }
  template <class D, class T>
  HWY_INLINE hn::Vec<D> LoadN(D d, const T* from, Index count) {
    return Next(hn::LoadN(d, from + zero_, count));
  }

 private:
  template <class V>
  HWY_INLINE V Next(V v) {
#if HWY_ARCH_X86
    asm volatile("" : "+v"(v.raw), "+r"(zero_));  // what comes next depends on it
#endif
    return v;
  }
  Index zero_ = 0;
};

// Rows of K or V.
template <class T>
struct Rows {
  const T* data;
  Index stride, columns;  // elements
  Index ahead;            // to what lies kAheadBytes of rows further
  HWY_INLINE const T* operator[](Index row) const { return data + row * stride; }
  // Into the second-level cache: the first has too few lines under way to keep memory busy. What
  // follows the last row is most often the next head's first; a prefetch may go anywhere.
  HWY_INLINE void Fetch(const T* line) const { __builtin_prefetch(line + ahead, 0, 2); }
};
constexpr Index kAheadBytes = 32768;

}  // namespace decode
}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
