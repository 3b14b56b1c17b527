// SPDX-License-Identifier: Apache-2.0
#include "harness/dense_distance.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "harness/inputs.h"
#include "kernels/contract/oracle.h"

namespace attnbench {

DenseDistance DistanceToDense(const Problem& dense, const Problem& selected, const Inputs& in,
                              const Output& output, Index rows, std::uint64_t seed) {
  const ConstTensor out = output.out;
  const Index total = dense.batch * dense.heads * dense.queries;
  const bool all = rows == 0 || rows >= total;
  const Index count = all ? total : rows;
  Random random(seed);
  OracleRow<double> oracle;
  DenseDistance mean;
  double greatest = 0, largest = 0;
  for (Index r = 0; r < count; ++r) {
    const Index row = all ? r : random.Below(total), query = row % dense.queries;
    const Index h = row / dense.queries % dense.heads, b = row / dense.queries / dense.heads;
    EvaluateRow(dense, in, b, h, query, &oracle);
    // A row that dense attention gives no key loses nothing.
    const bool sees_none = oracle.lse == -std::numeric_limits<double>::infinity();
    double recall = sees_none, difference2 = 0, dense2 = 0, out2 = 0, product = 0;
    for (Index j = 0; j < dense.keys; ++j)
      if (selected.Admits(query, j)) recall += oracle.weights[j];
    for (Index c = 0; c < dense.v_dim; ++c) {
      const double got = out.At(b, h, query, c), want = oracle.out[c];
      difference2 += (got - want) * (got - want);
      dense2 += want * want, out2 += got * got, product += got * want;
      greatest = std::max(greatest, std::abs(got - want));
      largest = std::max(largest, std::abs(want));
    }
    const double share = 1.0 / static_cast<double>(count);
    mean.mass_recall += share * recall;
    mean.rel_l2 += share * (dense2 > 0 ? std::sqrt(difference2 / dense2) : difference2 > 0);
    mean.cosine +=
        share * (dense2 * out2 > 0 ? product / std::sqrt(dense2 * out2) : dense2 == out2);
  }
  mean.max = largest > 0 ? greatest / largest : greatest;
  return mean;
}

}  // namespace attnbench
