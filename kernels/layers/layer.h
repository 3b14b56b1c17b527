// SPDX-License-Identifier: Apache-2.0
// Layers: X [batch, n, d_model] -> Y [batch, n, d_out]. A layer is a Kernel whose problem has a
// LayerShape: it registers by the same line, is checked, swept and recorded by the same code, and
// adds what a layer has and attention has not: weights, a count of useful work of its own, the
// length of its chain of dependent steps, and, since each layer defines another Y, its oracle.
//
//   ATTN_KERNEL(.name = "lstm", ..., .run = Run, .layer = MakeLayer({.weights = ..., ...}));
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/contract/kernel.h"
#include "kernels/contract/oracle.h"

namespace attnbench {

// A packed float32 matrix [rows][columns]. Benchmarks and tests fill it with N(0, sigma^2).
struct WeightShape {
  const char* name;
  Index rows, columns;
  double sigma;
};

// A row of Y that the oracle is asked for.
struct LayerRow {
  Index batch, row;
};
// Y by its definition, slowly, in the arithmetic of Real: out [d_out] of each row; weights
// [heads * keys] of layers that attend. Rows are sorted.
template <class Real>
using LayerOracle =
    std::function<void(const Problem&, const Options&, const Inputs&, const std::vector<LayerRow>&,
                       std::vector<OracleRow<Real>>*)>;

struct Layer {
  // The matrices that Inputs::weights carries, in order.
  std::function<std::vector<WeightShape>(const Problem&, const Options&)> weights = nullptr;
  // Multiply-adds and exponentials of the definition; X, weights and Y moved once.
  std::function<Cost(const Problem&, const Options&)> useful = nullptr;
  // Steps that must follow one another, whatever the machine: 1, or n for a recurrence (Vaswani et
  // al. 2017, table 1, "sequential operations").
  std::function<double(const Problem&)> sequential = nullptr;
  LayerOracle<double> exact = nullptr;
  LayerOracle<float> naive = nullptr;  // the same in float32: what sets the tolerance
};

inline std::shared_ptr<const Layer> MakeLayer(Layer layer) {
  return std::make_shared<const Layer>(std::move(layer));
}

inline std::vector<WeightShape> WeightsOf(const Kernel& kernel, const Problem& p,
                                          const Options& options) {
  return kernel.layer ? kernel.layer->weights(p, options) : std::vector<WeightShape>{};
}

// How many numbers a layer learns.
inline double ParametersOf(const std::vector<WeightShape>& weights) {
  double count = 0;
  for (const WeightShape& w : weights) count += static_cast<double>(w.rows) * w.columns;
  return count;
}

// The useful work of a kernel's or a layer's problem.
inline Cost UsefulOf(const Kernel& kernel, const Problem& p, const Options& options,
                     const Index* key_lengths = nullptr) {
  return kernel.layer ? kernel.layer->useful(p, options) : p.Useful(key_lengths);
}

// What a layer reads of a problem; everything else is refused by name.
struct LayerServes {
  bool attends = false;  // heads, masks, encodings, cross-attention
  bool width = false;
  bool causal = false;
};
inline std::string UnservedByLayer(const Problem& p, const LayerServes& s) {
  if (!p.layer) return "is a layer: give d_model";
  if (p.dtype != DType::kF32 || p.out_dtype != DType::kF32) return "dtype: layers are f32";
  if (p.has_bias || p.has_key_lengths || p.has_centers)
    return "bias, key_lengths and centers are not served by layers";
  if (!s.causal && p.mask.causal) return "causal: this layer has no mask";
  if (s.width ? p.layer.width < 1 : p.layer.width != 0)
    return s.width ? "width: must be at least 1" : "width: is a convolution's";
  if (s.attends) return "";
  if (p.heads != 1 || p.kv_heads != 1) return "heads: this layer does not attend";
  if (p.mask.pattern != Mask::Pattern::kFull || p.mask.sinks > 0)
    return "pattern: this layer does not attend";
  if (p.layer.cross) return "cross: this layer does not attend";
  if (p.layer.encoding != Encoding::kNone) return "encoding: this layer knows the order already";
  if (p.layer.attention != LayerShape::kAuto) return "attention: this layer does not attend";
  return "";
}

// C [m][n] = A [m][k] B, plainly, in Real: for oracles. `b_transposed`: B is [n][k].
template <class Real, class A, class B>
std::vector<Real> OracleProduct(const std::vector<A>& a, const B* b, Index m, Index n, Index k,
                                bool b_transposed = false) {
  std::vector<Real> c(m * n);
#pragma omp parallel for schedule(static) if (m > 1)
  for (Index i = 0; i < m; ++i) {
    Real* row = c.data() + i * n;
    const A* x = a.data() + i * k;
    if (b_transposed) {
      for (Index j = 0; j < n; ++j) {
        Real sum = 0;
        for (Index e = 0; e < k; ++e) sum += Real(x[e]) * Real(b[j * k + e]);
        row[j] = sum;
      }
    } else {
      for (Index e = 0; e < k; ++e)
        for (Index j = 0; j < n; ++j) row[j] += Real(x[e]) * Real(b[e * n + j]);
    }
  }
  return c;
}

// One batch of a sequence, as Real: [rows][columns].
template <class Real>
std::vector<Real> OracleSequence(const ConstTensor& x, Index batch, Index rows, Index columns) {
  std::vector<Real> copy(rows * columns);
  for (Index i = 0; i < rows; ++i)
    for (Index c = 0; c < columns; ++c) copy[i * columns + c] = Real(x.Row<float>(batch, 0, i)[c]);
  return copy;
}

}  // namespace attnbench
