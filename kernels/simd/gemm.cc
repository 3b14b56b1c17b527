// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/gemm.h"

#include <cpuid.h>

#include <algorithm>
#include <cstdlib>

#include "kernels/simd/row_ops.h"

#if ATTNBENCH_HAS_BLIS
#include <blis.h>
#endif

namespace attnbench {

#if ATTNBENCH_HAS_BLIS
namespace {

bool IsAmdWithAvx512AfterZen4() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid(0, &eax, &ebx, &ecx, &edx) || ebx != signature_AMD_ebx) return false;
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);
  const unsigned family = ((eax >> 8) & 0xf) + ((eax >> 20) & 0xff);
  return family > 0x19 && __builtin_cpu_supports("avx512f");
}

}  // namespace

// bli_init reads BLIS_ARCH_TYPE, and everything else of BLIS must come after it. BLIS 0.9 knows AMD
// families up to 19h (Zen 4 gets its zen3 kernels); on later ones it falls to `generic`, which
// reached 37 GFLOP/s where `skx` gave 193. There the choice is made for it.
std::string GemmLibrary() {
  static const std::string name = [] {
    if (IsAmdWithAvx512AfterZen4())
      setenv("BLIS_ARCH_TYPE", std::to_string(BLIS_ARCH_SKX).c_str(), /*overwrite=*/0);
    bli_init();
    return "blis:" + std::string(bli_arch_string(bli_arch_query_id()));
  }();
  return name;
}

void Gemm(Index m, Index n, Index k, float alpha, ConstMatrix a, ConstMatrix b, Transpose b_as,
          Matrix c) {
  rntm_t runtime;
  bli_rntm_init(&runtime);
  bli_rntm_set_num_threads(1, &runtime);
  float zero = 0;
  bli_sgemm_ex(BLIS_NO_TRANSPOSE, b_as == Transpose::kYes ? BLIS_TRANSPOSE : BLIS_NO_TRANSPOSE, m,
               n, k, &alpha, const_cast<float*>(a.data), a.stride, 1, const_cast<float*>(b.data),
               b.stride, 1, &zero, c.data, c.stride, 1, nullptr, &runtime);
}

#else

std::string GemmLibrary() { return ""; }

void Gemm(Index m, Index n, Index k, float alpha, ConstMatrix a, ConstMatrix b, Transpose b_as,
          Matrix c) {
  for (Index i = 0; i < m; ++i) {
    const float* row = a.data + i * a.stride;
    if (b_as == Transpose::kYes)
      RowDots(row, b.data, b.stride, n, k, alpha, c.data + i * c.stride);
    else
      WeightedSum(row, b.data, b.stride, k, n, alpha, c.data + i * c.stride);
  }
}

#endif

void ParallelGemm(Index m, Index n, Index k, float alpha, ConstMatrix a, ConstMatrix b,
                  Transpose b_as, Matrix c, int threads) {
  if (threads == 1) return Gemm(m, n, k, alpha, a, b, b_as, c);
  const bool by_rows = m >= 4 * threads;
  const Index total = by_rows ? m : n;
  // Whole register tiles a thread, whatever the library's are.
  const Index share = ((total + threads - 1) / threads + 15) / 16 * 16;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (Index first = 0; first < total; first += share) {
    const Index count = std::min(share, total - first);
    if (by_rows) {
      Gemm(count, n, k, alpha, {a.data + first * a.stride, a.stride}, b, b_as,
           {c.data + first * c.stride, c.stride});
    } else {
      const float* from = b.data + first * (b_as == Transpose::kYes ? b.stride : 1);
      Gemm(m, count, k, alpha, a, {from, b.stride}, b_as, {c.data + first, c.stride});
    }
  }
}

}  // namespace attnbench
