// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/target.h"

#include <cstdlib>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/target.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
const char* CompiledTarget() { return hwy::TargetName(HWY_TARGET); }
}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if defined(HWY_COMPILE_ONLY_STATIC) && defined(__AVX2__) && HWY_STATIC_TARGET == HWY_SSE2
#error "compiled for one instruction set, and Highway takes SSE2: for AVX2 it also needs -maes"
#endif
#if defined(HWY_COMPILE_ONLY_STATIC) && defined(__AVX512BF16__) && HWY_STATIC_TARGET > HWY_AVX3_ZEN4
#error "compiled for one instruction set without bf16 dots: it also needs -DHWY_WANT_AVX3_ZEN4"
#endif

#if HWY_ONCE
namespace attnbench {

HWY_EXPORT(CompiledTarget);

std::string DispatchedTarget() { return HWY_DYNAMIC_DISPATCH(CompiledTarget)(); }

std::string ForceTargetFromEnvironment() {
  const char* wanted = std::getenv("ATTNBENCH_TARGET");
  if (!wanted || !*wanted) return "";
  std::string names;
  for (std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (hwy::TargetName(target) == std::string(wanted)) {
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().Update(target);
      return "";
    }
    names += (names.empty() ? "" : ", ") + std::string(hwy::TargetName(target));
  }
  return "ATTNBENCH_TARGET: '" + std::string(wanted) +
         "' is not to be had on this CPU (there are " + names + ")";
}

}  // namespace attnbench
#endif
