// SPDX-License-Identifier: Apache-2.0
// convolution: a layer that sees `width` positions around its own (causal: up to its own).
//
//   y_t = b + sum_k x_{t + k - left} W_k     left = (width - 1) / 2, causal width - 1
//
// Positions outside the sequence are zero. The sequence is copied once between zero rows; there
// row t of the unfolded input, [x_{t-left} ... x_{t-left+width-1}], is contiguous, so that the
// whole layer is one product whose left matrix has rows d_model apart and width * d_model long:
// nothing is unfolded in memory.
//
// Paper: Vaswani et al. 2017, table 1: k n d^2 operations, none in sequence, paths of length n / k.
// Cost: 2 width d_model d_out flops a position. Memory: one copy of X.
#include <cmath>
#include <cstring>

#include "kernels/layers/layer.h"
#include "kernels/simd/gemm.h"
#include "kernels/simd/target.h"

namespace attnbench {
namespace {

Index Left(const Problem& p) { return p.mask.causal ? p.layer.width - 1 : (p.layer.width - 1) / 2; }

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const Index n = p.queries, d = p.layer.d_model, left = Left(p);
  const Index rows = n + p.layer.width - 1;
  float* padded = reinterpret_cast<float*>(context.workspace);
  for (Index b = 0; b < p.batch; ++b) {
#pragma omp parallel for schedule(static) num_threads(context.threads)
    for (Index i = 0; i < rows; ++i) {
      if (i >= left && i < left + n)
        std::memcpy(padded + i * d, in.x.Row<float>(b, 0, i - left), sizeof(float) * d);
      else
        std::memset(padded + i * d, 0, sizeof(float) * d);
    }
    ParallelGemm(n, p.layer.d_out, p.layer.width * d, 1.0f, {padded, d},
                 {in.weights[0], p.layer.d_out}, Transpose::kNo,
                 {out.out.Row<float>(b, 0, 0), out.out.row_stride}, context.threads);
#pragma omp parallel for schedule(static) num_threads(context.threads)
    for (Index i = 0; i < n; ++i) {
      float* y = out.out.Row<float>(b, 0, i);
      for (Index c = 0; c < p.layer.d_out; ++c) y[c] += in.weights[1][c];
    }
  }
}

std::vector<WeightShape> Weights(const Problem& p, const Options&) {
  const Index fan_in = p.layer.width * p.layer.d_model;
  const double sigma = 1 / std::sqrt(static_cast<double>(fan_in));
  return {{"w", fan_in, p.layer.d_out, sigma}, {"bias", 1, p.layer.d_out, sigma}};
}

Cost CostOf(const Problem& p, const Options& options, double positions_seen) {
  const double rows = static_cast<double>(p.batch) * p.queries, d = p.layer.d_model;
  return {.flops = 2 * d * p.layer.d_out * p.batch * positions_seen,
          .bytes = 4 * (rows * (d + p.layer.d_out) + ParametersOf(Weights(p, options)))};
}

Cost Useful(const Problem& p, const Options& options) {
  double seen = 0;  // within the sequence
  for (Index k = 0; k < p.layer.width; ++k)
    seen += static_cast<double>(std::max<Index>(0, p.queries - std::abs(k - Left(p))));
  return CostOf(p, options, seen);
}

Cost Executed(const Problem& p, const Options& options) {
  return CostOf(p, options, static_cast<double>(p.queries) * p.layer.width);
}

std::size_t Workspace(const Problem& p, const Options&, int) {
  return sizeof(float) *
         static_cast<std::size_t>((p.queries + p.layer.width - 1) * p.layer.d_model);
}

std::string Refuse(const Problem& p, const Options&) {
  GemmLibrary();  // initialises BLIS outside any timing
  return UnservedByLayer(p, {.width = true, .causal = true});
}

template <class Real>
void Evaluate(const Problem& p, const Options&, const Inputs& in, const std::vector<LayerRow>& rows,
              std::vector<OracleRow<Real>>* results) {
  const Index d = p.layer.d_model, d_out = p.layer.d_out;
  results->resize(rows.size());
#pragma omp parallel for schedule(dynamic)
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::vector<Real>& y = (*results)[r].out;
    y.assign(in.weights[1], in.weights[1] + d_out);
    for (Index k = 0; k < p.layer.width; ++k) {
      const Index at = rows[r].row + k - Left(p);
      if (at < 0 || at >= p.queries) continue;
      const float* x = in.x.Row<float>(rows[r].batch, 0, at);
      for (Index e = 0; e < d; ++e)
        for (Index c = 0; c < d_out; ++c)
          y[c] += Real(x[e]) * Real(in.weights[0][(k * d + e) * d_out + c]);
    }
  }
}

ATTN_KERNEL(
        .name = "convolution", .idea = "convolution layer over `width` positions, one product",
        .refuse = Refuse, .executed = Executed, .workspace = Workspace, .run = Run,
        .target =
            [] {
              const std::string library = GemmLibrary();
              return library.empty() ? DispatchedTarget() : library;
            },
        .layer = MakeLayer({.weights = Weights,
                            .useful = Useful,
                            .sequential = [](const Problem&) { return 1.0; },
                            .exact = Evaluate<double>,
                            .naive = Evaluate<float>}));

}  // namespace
}  // namespace attnbench
