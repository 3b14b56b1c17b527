// SPDX-License-Identifier: Apache-2.0
// What must hold of attention whatever the numbers are.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <set>

#include "harness/conform.h"
#include "harness/inputs.h"
#include "harness/run_setup.h"

namespace attnbench {
namespace {

struct Result {
  std::vector<float> out, lse, weights;
};

// Out and, as far as the kernel provides them, lse and weights.
Result RunKernel(const Kernel& kernel, const Options& options, const Problem& p, const Inputs& in,
                 int threads = 1, Buffer* kept_workspace = nullptr) {
  const OwnedOutput output(p, kernel.provides);
  Buffer workspace = WorkspaceOf(kernel, p, options, threads);
  const RunSetup setup(kernel, p, options, in, threads, workspace.data());
  kernel.run(p, in, output.view(), setup.context());
  if (kept_workspace) *kept_workspace = std::move(workspace);
  const Output& o = output.view();
  const Index rows = p.batch * p.heads * p.queries;
  Result result;
  for (Index r = 0; r < rows; ++r) {
    const Index b = r / (p.heads * p.queries), h = r / p.queries % p.heads, i = r % p.queries;
    for (Index c = 0; c < p.v_dim; ++c)
      result.out.push_back(static_cast<float>(ConstTensor(o.out).At(b, h, i, c)));
    if (o.lse) result.lse.push_back(o.lse[r]);
    for (Index j = 0; o.weights && j < p.keys; ++j)
      result.weights.push_back(o.weights.Row<float>(b, h, i)[j]);
  }
  return result;
}

// The same with its default options.
Result RunKernel(const Kernel& kernel, const Problem& p, const Inputs& in, int threads = 1,
                 Buffer* kept_workspace = nullptr) {
  return RunKernel(kernel, Options(kernel.options), p, in, threads, kept_workspace);
}

float MaxDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  float max = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    max = std::max(max, std::abs(a[i] - b[i]));
  return max;
}

Problem Square(Index n = 67, Index head_dim = 16, Index heads = 2) {
  Problem p;
  p.queries = n, p.head_dim = head_dim, p.heads = heads;
  return p.Resolve();
}

// The kernels of the tree: other tests of this program load plugins that are wrong on purpose.
std::vector<const Kernel*> Catalogue() {
  std::vector<const Kernel*> kernels = Kernels();
  std::erase_if(kernels, [](const Kernel* kernel) { return kernel->host != "cpp"; });
  return kernels;
}

bool Serves(const Kernel& kernel, const Problem& p) {
  return kernel.refuse(p, Options(kernel.options)).empty();
}

// Copies of the rows of a [1][heads][n][d] tensor in another order.
void Permute(const ConstTensor& from, const OwnedInputs& to_owner, const ConstTensor& to,
             Index heads, Index n, Index d, const std::vector<Index>& order) {
  for (Index h = 0; h < heads; ++h)
    for (Index i = 0; i < n; ++i)
      for (Index c = 0; c < d; ++c)
        const_cast<OwnedInputs&>(to_owner).Set(to, 0, h, i, c, from.At(0, h, order[i], c));
}

std::vector<Index> Shuffled(Index n, std::uint64_t seed) {
  std::vector<Index> order(n);
  std::iota(order.begin(), order.end(), 0);
  Random random(seed);
  for (Index i = n - 1; i > 0; --i) std::swap(order[i], order[random.Below(i + 1)]);
  return order;
}

TEST(Property, RowsOfWeightsSumToOne) {
  for (const Kernel* kernel : Catalogue()) {
    if (!(kernel->provides & kWeights)) continue;
    for (bool causal : {false, true}) {
      Problem p = Square();
      p.mask.causal = causal;
      if (!Serves(*kernel, p)) p.score = Score::kAdditive, p.hidden = 8;
      if (!Serves(*kernel, p)) continue;
      const OwnedInputs inputs = OwnedInputs::Make(p, {}, 1);
      const Result result = RunKernel(*kernel, p, inputs.view());
      for (Index r = 0; r < p.heads * p.queries; ++r) {
        double sum = 0;
        for (Index j = 0; j < p.keys; ++j) {
          EXPECT_GE(result.weights[r * p.keys + j], 0);
          sum += result.weights[r * p.keys + j];
        }
        ASSERT_NEAR(sum, 1, 1e-5) << kernel->name << " row " << r;
      }
    }
  }
}

TEST(Property, TheOutputOfASingleKeyIsItsValue) {
  Problem p = Square(40, 64);
  p.mask.causal = true;
  const OwnedInputs inputs = OwnedInputs::Make(p, {}, 5);
  for (const Kernel* kernel : Catalogue()) {
    if (!Serves(*kernel, p)) continue;
    const std::vector<float> out = RunKernel(*kernel, p, inputs.view()).out;
    for (Index h = 0; h < p.heads; ++h) {
      for (Index c = 0; c < p.v_dim; ++c) {
        const float value = static_cast<float>(inputs.view().v.At(0, h, 0, c));
        EXPECT_NEAR(out[h * p.queries * p.v_dim + c], value, std::abs(value) * 0x1p-23f)
            << kernel->name << ", head " << h << ", column " << c;
      }
    }
  }
}

TEST(Property, PermutingKeysAndValuesTogetherChangesNothing) {
  const Problem p = Square();
  const OwnedInputs inputs = OwnedInputs::Make(p, {}, 2), other = inputs.Clone();
  const std::vector<Index> order = Shuffled(p.keys, 3);
  Permute(inputs.view().k, other, other.view().k, p.heads, p.keys, p.head_dim, order);
  Permute(inputs.view().v, other, other.view().v, p.heads, p.keys, p.v_dim, order);
  for (const Kernel* kernel : Catalogue())
    if (Serves(*kernel, p)) {
      EXPECT_LT(MaxDifference(RunKernel(*kernel, p, inputs.view()).out,
                              RunKernel(*kernel, p, other.view()).out),
                5e-6)
          << kernel->name;
    }
}

TEST(Property, PermutingTokensPermutesTheOutputUnlessAMaskKnowsTheirOrder) {
  for (bool causal : {false, true}) {
    Problem p = Square();
    p.mask.causal = causal;
    const OwnedInputs inputs = OwnedInputs::Make(p, {}, 4), other = inputs.Clone();
    const std::vector<Index> order = Shuffled(p.keys, 5);
    Permute(inputs.view().q, other, other.view().q, p.heads, p.keys, p.head_dim, order);
    Permute(inputs.view().k, other, other.view().k, p.heads, p.keys, p.head_dim, order);
    Permute(inputs.view().v, other, other.view().v, p.heads, p.keys, p.v_dim, order);
    for (const Kernel* kernel : Catalogue()) {
      if (!Serves(*kernel, p)) continue;
      const Result plain = RunKernel(*kernel, p, inputs.view());
      const Result permuted = RunKernel(*kernel, p, other.view());
      std::vector<float> expected(plain.out.size());
      for (Index h = 0; h < p.heads; ++h)
        for (Index i = 0; i < p.queries; ++i)
          for (Index c = 0; c < p.v_dim; ++c)
            expected[(h * p.queries + i) * p.v_dim + c] =
                plain.out[(h * p.queries + order[i]) * p.v_dim + c];
      const float difference = MaxDifference(permuted.out, expected);
      if (causal) {
        EXPECT_GT(difference, 0.1) << kernel->name;
      } else {
        EXPECT_LT(difference, 5e-6) << kernel->name;
      }
    }
  }
}

TEST(Property, LuongDotIsScaledAttentionOverTheStatesWithScaleOne) {
  Problem dot;
  dot.queries = 9, dot.keys = 31, dot.head_dim = 16, dot.score = Score::kDot;
  dot.Resolve();
  Problem scaled = dot;
  scaled.score = Score::kScaledDot, scaled.scale = 1;
  OwnedInputs inputs = OwnedInputs::Make(dot, {}, 6);
  inputs.view().v = inputs.view().k;  // keys = values = encoder states
  const Kernel& luong = *FindKernel("luong");
  ASSERT_TRUE(Serves(luong, dot));
  const Result expected = RunKernel(*FindKernel("reference"), scaled, inputs.view());
  EXPECT_LT(MaxDifference(RunKernel(luong, dot, inputs.view()).out, expected.out), 5e-6);
}

TEST(Property, AWindowAsWideAsTheSequenceIsDense) {
  for (bool causal : {false, true}) {
    Problem dense = Square();
    dense.mask.causal = causal;
    Problem local = dense;
    local.mask.pattern = Mask::Pattern::kLocal, local.mask.window = dense.keys;
    const OwnedInputs inputs = OwnedInputs::Make(dense, {}, 7);
    const Result expected = RunKernel(*FindKernel("reference"), dense, inputs.view());
    for (const Kernel* kernel : Catalogue())
      if (Serves(*kernel, local)) {
        EXPECT_LT(MaxDifference(RunKernel(*kernel, local, inputs.view()).out, expected.out), 5e-6)
            << kernel->name;
      }
  }
}

TEST(Property, ARowThatAdmitsNoKeyIsZeroWithLogSumExpMinusInfinity) {
  Problem p;
  p.queries = 10, p.keys = 4, p.head_dim = 16, p.mask.causal = true;  // rows 0 ... 5 are empty
  p.Resolve();
  const OwnedInputs inputs = OwnedInputs::Make(p, {}, 8);
  for (const Kernel* kernel : Catalogue()) {
    if (!Serves(*kernel, p)) continue;
    const Result result = RunKernel(*kernel, p, inputs.view());
    for (Index i = 0; i < 6; ++i)
      for (Index c = 0; c < p.v_dim; ++c)
        ASSERT_EQ(result.out[i * p.v_dim + c], 0) << kernel->name << " row " << i;
    for (Index i = 0; i < 6 && (kernel->provides & kLse); ++i)
      ASSERT_EQ(result.lse[i], -std::numeric_limits<float>::infinity()) << kernel->name;
  }
}

TEST(Property, ClosedFormOfTheMaskIsItsPredicate) {
  Index checked = 0;
  for (std::uint64_t seed = 1; seed <= 3000; ++seed) {
    const Problem p = FuzzCase(seed).problem;
    if (!p.HasClosedForm()) continue;
    ++checked;
    Random random(seed);
    const Index limit = random.Between(0, p.keys);
    double pairs = 0;
    for (Index i = 0; i < p.queries; i += std::max<Index>(1, p.queries / 20)) {
      const AdmittedKeys admitted = p.Admitted(i, limit);
      Index count = 0;
      for (Index j = 0; j < p.keys; ++j) {
        const bool expected = j < limit && p.Admits(i, j);
        ASSERT_EQ(admitted.Contains(j), expected) << "seed " << seed << " i " << i << " j " << j;
        count += expected;
      }
      ASSERT_EQ(admitted.Count(), count) << "seed " << seed << " query " << i;
    }
    for (Index i = 0; i < p.queries; ++i)
      for (Index j = 0; j < p.keys; ++j) pairs += p.Admits(i, j);
    ASSERT_EQ(p.AdmittedPairs(), pairs * p.heads * p.batch) << "seed " << seed;
  }
  EXPECT_GT(checked, 1000);
}

TEST(Property, PatternsAreWhatTheirPapersSay) {
  Mask mask;
  mask.pattern = Mask::Pattern::kLocal, mask.window = 256, mask.causal = true;
  Index admitted = 0;
  for (Index j = 0; j < 1000; ++j) admitted += mask.Admits(500, j);
  EXPECT_EQ(admitted, 257);  // a half-width: the 256 before, and itself
  mask.causal = false, admitted = 0;
  for (Index j = 0; j < 1000; ++j) admitted += mask.Admits(500, j);
  EXPECT_EQ(admitted, 513);
  Mask strided;  // Child et al. 2019: the previous `stride` and every stride-th before
  strided.pattern = Mask::Pattern::kStrided, strided.window = 1, strided.stride = 8;
  EXPECT_TRUE(strided.Admits(50, 42) && strided.Admits(50, 2) && !strided.Admits(50, 8));
  Mask columns = strided;
  columns.pattern = Mask::Pattern::kColumns;  // by default the last of each stride
  EXPECT_TRUE(columns.Admits(50, 7) && columns.Admits(50, 15) && !columns.Admits(50, 42));
  Mask fixed;
  fixed.pattern = Mask::Pattern::kFixed, fixed.stride = 8, fixed.columns = 2;
  EXPECT_TRUE(fixed.Admits(50, 48) && fixed.Admits(50, 6) && fixed.Admits(50, 7));
  EXPECT_FALSE(fixed.Admits(50, 5));
}

TEST(Property, TheSameRunTwiceGivesTheSameBits) {
  for (const Kernel* kernel : Catalogue())
    for (int threads : {1, 2}) {
      Problem p = Square(130, 24, 3);
      p.mask.causal = true;
      if (!Serves(*kernel, p)) continue;
      const OwnedInputs inputs = OwnedInputs::Make(p, {}, 9);
      const Result a = RunKernel(*kernel, p, inputs.view(), threads);
      const Result b = RunKernel(*kernel, p, inputs.view(), threads);
      EXPECT_EQ(std::memcmp(a.out.data(), b.out.data(), a.out.size() * sizeof(float)), 0)
          << kernel->name << " on " << threads << " threads";
    }
}

// As docs/kernel_in_tree.md says: who parts the keys by threads adds up in another order.
TEST(Property, SeveralThreadsAgreeWithOneToTheBitUnlessTheyPartTheKeys) {
  std::set<std::string> differ;
  for (const Kernel* kernel : Catalogue())
    for (Index heads : {1, 5})
      for (Index queries : {1, 300})
        for (bool causal : {false, true}) {
          Problem p;
          p.heads = heads, p.queries = queries, p.keys = 300, p.head_dim = 24;
          p.mask.causal = causal;
          p.Resolve();
          if (!Serves(*kernel, p)) continue;
          const OwnedInputs inputs = OwnedInputs::Make(p, {}, 10);
          const Result one = RunKernel(*kernel, p, inputs.view(), 1);
          for (int threads : {2, 3}) {
            const Result several = RunKernel(*kernel, p, inputs.view(), threads);
            EXPECT_LT(MaxDifference(one.out, several.out), 5e-6) << kernel->name;
            if (std::memcmp(one.out.data(), several.out.data(), one.out.size() * sizeof(float)))
              differ.emplace(kernel->name);
          }
        }
  EXPECT_EQ(differ, std::set<std::string>{"split_keys"});
}

TEST(Property, OnlyTheNaiveKernelsWorkspaceGrowsWithTheSquare) {
  for (const Kernel* kernel : Catalogue()) {
    if (!kernel->workspace) continue;
    for (const auto pattern :
         {Mask::Pattern::kFull, Mask::Pattern::kLocal, Mask::Pattern::kColumns})
      for (Index queries : {1, 8192}) {
        const auto bytes = [&](Index factor) {
          Problem p;
          p.queries = queries == 1 ? 1 : queries * factor, p.keys = 8192 * factor, p.head_dim = 64;
          p.mask.pattern = pattern, p.mask.window = 64, p.mask.stride = 64;
          p.Resolve();
          if (!Serves(*kernel, p)) return 0.0;
          return static_cast<double>(kernel->workspace(p, Options(kernel->options), 1));
        };
        const bool quadratic = kernel->name == "naive" && queries > 1;
        EXPECT_LE(bytes(4), (quadratic ? 16 : 4.1) * bytes(1)) << kernel->name;
      }
  }
}

TEST(Property, KeysInStridesByLanesAgreeWithThoseByClassAndCostNoMore) {
  const Kernel& kernel = *FindKernel("sparse_strided");
  const Options lanes(kernel.options);
  Options classes = lanes;
  ASSERT_EQ(classes.Set("lanes", 0), "");
  for (const bool causal : {false, true})
    for (const Index stride : {5, 30, 64}) {
      Problem p = Square(400, 24, 4);
      p.kv_heads = 2, p.v_dim = 21;
      p.mask.pattern = Mask::Pattern::kStrided, p.mask.stride = stride, p.mask.window = 40;
      p.mask.sinks = causal ? 3 : 0, p.mask.causal = causal;
      p.positions = {.query_origin = 0, .key_origin = -20};
      const OwnedInputs inputs = OwnedInputs::Make(p, {}, 11);
      const Result a = RunKernel(kernel, lanes, p, inputs.view(), 2);
      const Result b = RunKernel(kernel, classes, p, inputs.view(), 2);
      EXPECT_LT(MaxDifference(a.out, b.out), 2e-6) << stride;
      EXPECT_LT(MaxDifference(a.lse, b.lse), 5e-6) << stride;
      const double by_lanes = kernel.executed(p, lanes).flops;
      const double by_classes = kernel.executed(p, classes).flops;
      if (stride == 64) {  // fills the vectors of every target; 30 may be left to classes
        EXPECT_NE(by_lanes, by_classes);
        EXPECT_LT(by_lanes, 1.02 * by_classes);  // narrow blocks waste little either way
      } else if (stride == 5) {
        EXPECT_EQ(by_lanes, by_classes);
      }
    }
}

TEST(Registry, EveryFileOfTheCatalogueIsAKernelOfThatName) {
  std::set<std::string> files, names;
  for (const auto& entry : std::filesystem::directory_iterator(ATTNBENCH_SOURCE_DIR "/kernels"))
    if (const std::filesystem::path& file = entry.path();
        file.extension() == ".cc" &&
        !std::filesystem::exists(std::filesystem::path(file).replace_extension(".h")))
      files.insert(file.stem());  // a file with a header serves other files
  for (const Kernel* kernel : Catalogue()) names.insert(std::string(kernel->name));
  EXPECT_EQ(files, names);
}

}  // namespace
}  // namespace attnbench
