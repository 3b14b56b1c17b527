// SPDX-License-Identifier: Apache-2.0
// The engine, compiled once for all kernels on it.
#include "kernels/simd/attend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/attend.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/attend-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

template class BlockEnds<float>;
template class Attender<float>;
#if HWY_TARGET <= HWY_AVX3_ZEN4
template class BlockEnds<BFloat16>;
template class Attender<BFloat16>;
#endif

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();
