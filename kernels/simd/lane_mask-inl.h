// SPDX-License-Identifier: Apache-2.0
// A LaneMask, a vector of queries at a time.

#if defined(ATTNBENCH_KERNELS_SIMD_LANE_MASK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_LANE_MASK_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_LANE_MASK_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_LANE_MASK_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/simd/attend.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

// Lanes q ... q + Lanes(d) - 1 that admit row `key`.
template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Mask<D> Admitted(D d, const LaneMask& mask, int q, Index key) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToSigned<D> di;
  const auto j = hn::Set(di, static_cast<std::int32_t>(key));
  const auto under = hn::Lt(j, hn::Load(di, mask.limit + q));
  bool by_lanes = mask.admits != nullptr;
  if (!mask.admits && mask.stride > 0) {
    const Index m = (key - mask.residue[0]) % mask.stride;
    if (!mask.same_residue)
      by_lanes = true;
    else if ((m < 0 ? m + mask.stride : m) < mask.width)
      return hn::RebindMask(d, under);
  }
  if (by_lanes) {
    HWY_ALIGN std::int32_t extra[HWY_LANES(float)];
    for (int lane = 0; lane < static_cast<int>(hn::Lanes(di)); ++lane) {
      if (mask.admits) {
        extra[lane] = key < mask.limit[q + lane] && mask.admits(mask.context, q + lane, key);
      } else {
        const Index m = (key - mask.residue[q + lane]) % mask.stride;
        extra[lane] = (m < 0 ? m + mask.stride : m) < mask.width;
      }
    }
    const auto by_lane = hn::Gt(hn::Load(di, extra), hn::Zero(di));
    if (mask.admits) return hn::RebindMask(d, hn::And(under, by_lane));
    const auto band =
        hn::And(hn::Ge(j, hn::Load(di, mask.begin + q)), hn::Lt(j, hn::Load(di, mask.end + q)));
    const auto sinks = hn::Lt(j, hn::Load(di, mask.sinks + q));
    return hn::RebindMask(d, hn::And(under, hn::Or(hn::Or(band, sinks), by_lane)));
  }
  const auto band =
      hn::And(hn::Ge(j, hn::Load(di, mask.begin + q)), hn::Lt(j, hn::Load(di, mask.end + q)));
  const auto sinks = hn::Lt(j, hn::Load(di, mask.sinks + q));
  return hn::RebindMask(d, hn::And(under, hn::Or(band, sinks)));
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
