// SPDX-License-Identifier: Apache-2.0
// Matrix products for kernels and layers: BLIS's sgemm where it was there at the build, else loops
// over the vectorised row operations. Float32, row-major, rows `stride` elements apart.
#pragma once

#include <string>

#include "kernels/contract/tensor.h"

namespace attnbench {

struct ConstMatrix {
  const float* data;
  Index stride;
};
struct Matrix {
  float* data;
  Index stride;
};
enum class Transpose : bool { kNo, kYes };

// C [m, n] = alpha A [m, k] B, with B [k, n] or, transposed, [n, k]. On the calling thread.
void Gemm(Index m, Index n, Index k, float alpha, ConstMatrix a, ConstMatrix b, Transpose b_as,
          Matrix c);
// The same with the rows of C, or the columns where there are few rows, split over threads.
void ParallelGemm(Index m, Index n, Index k, float alpha, ConstMatrix a, ConstMatrix b,
                  Transpose b_as, Matrix c, int threads);

// "blis:zen3": the library and the kernels that it chose; empty where the build has none. The first
// call initialises the library: have it outside any timing.
std::string GemmLibrary();

}  // namespace attnbench
