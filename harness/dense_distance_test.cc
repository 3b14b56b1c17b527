// SPDX-License-Identifier: Apache-2.0
#include "harness/dense_distance.h"

#include <gtest/gtest.h>

#include <memory>

#include "harness/inputs.h"

namespace attnbench {
namespace {

// What the oracle gives for `solved`, against dense attention to `dense`.
DenseDistance Distance(const Problem& dense, const Problem& solved) {
  const Kernel& oracle = *FindKernel("reference");
  const Options options(oracle.options);
  const OwnedInputs inputs = OwnedInputs::Make(dense, {}, 1);
  const OwnedOutput output(dense, 0);
  oracle.run(solved, inputs.view(), output.view(), {.threads = 1, .options = &options});
  return DistanceToDense(dense, solved, inputs.view(), output.view(), 0, 1);
}

TEST(DenseDistance, OfEqualWeightsHalfTheKeysHaveHalfTheMass) {
  Problem dense;
  dense.queries = dense.keys = 8, dense.head_dim = 4, dense.scale = 0;
  dense.Resolve();
  Problem half = dense;
  half.mask.pattern = Mask::Pattern::kTiles;
  half.mask.tiles = std::make_shared<TileList>(
      TileList{.query_tile = 8, .key_tile = 4, .row_begin = {0, 1}, .column = {1}});
  const DenseDistance found = Distance(dense, half);
  EXPECT_NEAR(found.mass_recall, 0.5, 1e-9);
  EXPECT_GT(found.rel_l2, 0.01);
  EXPECT_LT(found.cosine, 0.999);
  EXPECT_GT(found.max, 0.01);
}

TEST(DenseDistance, ARowThatHasNoKeysLosesNothing) {
  Problem causal;  // of five queries the first three come before all keys
  causal.queries = 5, causal.keys = 2, causal.head_dim = 4, causal.mask.causal = true;
  causal.Resolve();
  const DenseDistance found = Distance(causal, causal);
  EXPECT_NEAR(found.mass_recall, 1, 1e-9);
  EXPECT_NEAR(found.rel_l2, 0, 1e-6);
  EXPECT_NEAR(found.cosine, 1, 1e-6);
}

}  // namespace
}  // namespace attnbench
