// SPDX-License-Identifier: Apache-2.0
// Layers: each agrees with its float64 definition, and what must hold of it whatever the numbers
// are.
#include "kernels/layers/layer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <random>

#include "harness/conform.h"
#include "kernels/position.h"

namespace attnbench {
namespace {

class EveryLayer : public testing::TestWithParam<std::string> {};

TEST_P(EveryLayer, AgreesWithItsDefinition) {
  const Conformance result = Conform(*FindKernel(GetParam()), LayerCases(), 2);
  for (std::size_t i = 0; i < result.failures.size() && i < 20; ++i)
    ADD_FAILURE() << result.failures[i];
  EXPECT_EQ(result.failures.size(), 0u);
  // What it makes of the others' cases counts too: a layer that refuses most was not tested.
  EXPECT_GT(result.passed, 5 * result.refused);
}

TEST_P(EveryLayer, AgreesWithItsDefinitionOnRandomProblems) {
  const char* given = std::getenv("ATTNBENCH_FUZZ_SEED");
  const std::uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("fuzz seed: ATTNBENCH_FUZZ_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::vector<EdgeCase> cases;
  for (int i = 0; i < 60; ++i) cases.push_back(FuzzLayerCase(seed + i));
  for (const std::string& failure : Conform(*FindKernel(GetParam()), cases, 2).failures)
    ADD_FAILURE() << failure;
}

std::vector<std::string> LayerNames() {
  std::vector<std::string> names;
  for (const Kernel* layer : Layers()) names.emplace_back(layer->name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Conformance, EveryLayer, testing::ValuesIn(LayerNames()),
                         [](const auto& info) { return info.param; });

Problem ProblemOf(Index n = 40, Index d_model = 24, Index heads = 2) {
  Problem p;
  p.queries = n, p.heads = heads, p.layer.d_model = d_model;
  return p;
}

// A layer with inputs of its own; Y as [n][d_out].
struct Bench {
  const Kernel& kernel;
  Problem problem;
  Options options;
  OwnedInputs inputs;

  Bench(const char* name, Problem p, const std::map<std::string, Index>& set = {})
      : kernel(*FindKernel(name)), problem(p.Resolve()), options(kernel.options) {
    for (const auto& [option, value] : set) EXPECT_EQ(options.Set(option, value), "");
    EXPECT_EQ(kernel.refuse(problem, options), "");
    inputs = OwnedInputs::Make(kernel, options, problem, {}, 3);
  }
  std::vector<float> Run(int threads = 1) const {
    const OwnedOutput output(problem, 0);
    const Buffer workspace(kernel.workspace(problem, options, threads));
    workspace.Fill(0xff);  // NaN
    const auto plan = kernel.plan ? kernel.plan(problem, options, threads) : nullptr;
    kernel.run(problem, inputs.view(), output.view(),
               {.threads = threads,
                .options = &options,
                .workspace = workspace.data(),
                .plan = plan.get()});
    const float* y = output.out_buffer().as<float>();
    return {y, y + problem.batch * problem.queries * problem.layer.d_out};
  }
  float* Row(Index row) { return const_cast<float*>(inputs.view().x.Row<float>(0, 0, row)); }
};

// For each row of Y, whether it moved when row `at` of X did.
std::vector<bool> Reached(Bench* bench, Index at) {
  const std::vector<float> before = bench->Run();
  for (Index c = 0; c < bench->problem.layer.d_model; ++c) bench->Row(at)[c] += 1.5f;
  const std::vector<float> after = bench->Run();
  const Index n = bench->problem.queries, d = bench->problem.layer.d_out;
  std::vector<bool> reached(n);
  for (Index i = 0; i < n; ++i)
    for (Index c = 0; c < d; ++c)
      if (before[i * d + c] != after[i * d + c]) reached[i] = true;
  return reached;
}

// How far the outputs of a shuffled sequence are from the shuffled outputs.
double OrderMatters(const Problem& p) {
  Bench straight("self_attention", p), shuffled("self_attention", p);
  const Index n = straight.problem.queries, d = straight.problem.layer.d_model;
  std::vector<Index> order(n);
  std::iota(order.begin(), order.end(), Index{0});
  std::shuffle(order.begin(), order.end(), std::mt19937(5));
  for (Index i = 0; i < n; ++i) std::copy_n(straight.Row(order[i]), d, shuffled.Row(i));
  const std::vector<float> y = straight.Run(), z = shuffled.Run();
  double difference = 0;
  for (Index i = 0; i < n; ++i)
    for (Index c = 0; c < d; ++c)
      difference = std::max<double>(difference, std::abs(z[i * d + c] - y[order[i] * d + c]));
  return difference;
}

TEST(SelfAttention, IsBlindToOrderWithoutPositions) { EXPECT_LT(OrderMatters(ProblemOf()), 1e-5); }

TEST(SelfAttention, EachEncodingTellsTheOrder) {
  for (Encoding encoding :
       {Encoding::kSinusoidal, Encoding::kLearned, Encoding::kRotary, Encoding::kAlibi}) {
    Problem p = ProblemOf();
    p.layer.encoding = encoding;
    EXPECT_GT(OrderMatters(p), 0.05) << Name(encoding);
  }
}

TEST(SelfAttention, CausalAndLocalMasksTellTheOrder) {
  Problem causal = ProblemOf(), local = ProblemOf();
  causal.mask.causal = true;
  local.mask.pattern = Mask::Pattern::kLocal, local.mask.window = 3;
  EXPECT_GT(OrderMatters(causal), 0.05);
  EXPECT_GT(OrderMatters(local), 0.05);
}

TEST(SelfAttention, OverItselfAsASecondSequenceIsTheSame) {
  Problem cross = ProblemOf();
  cross.layer.cross = true;
  cross.keys = cross.queries;
  Bench self("self_attention", ProblemOf()), second("self_attention", cross);
  second.inputs.view().memory = second.inputs.view().x;
  EXPECT_EQ(self.Run(), second.Run());
}

TEST(SelfAttention, WithoutAnOutputProjectionIsTheHeadsSideBySide) {
  const Problem p = ProblemOf();
  Bench bare("self_attention", p, {{"output_projection", 0}}), whole("self_attention", p);
  const std::vector<float> heads = bare.Run(), y = whole.Run();
  const float* wo = whole.inputs.view().weights[3];
  const Index d = whole.problem.layer.d_model;
  for (Index i = 0; i < p.queries; ++i)
    for (Index c = 0; c < d; ++c) {
      double sum = 0;
      for (Index k = 0; k < d; ++k) sum += static_cast<double>(heads[i * d + k]) * wo[k * d + c];
      EXPECT_NEAR(y[i * d + c], sum, 1e-5);
    }
}

TEST(SelfAttention, RefusesByName) {
  const Kernel& layer = *FindKernel("self_attention");
  Problem odd = ProblemOf(20, 15, 1), missing = ProblemOf(), wrong = ProblemOf();
  odd.layer.encoding = Encoding::kRotary;
  missing.layer.attention = "nothing";
  wrong.layer.attention = "local_window";
  const auto reason = [&](Problem& p) { return layer.refuse(p.Resolve(), Options(layer.options)); };
  EXPECT_EQ(reason(odd).find("encoding: rotary"), 0u);
  EXPECT_EQ(reason(missing).find("attention: no kernel 'nothing'"), 0u);
  EXPECT_EQ(reason(wrong).find("attention: 'local_window'"), 0u);
  const Kernel& flash = *FindKernel("flash");  // a layer's problem is not attention
  EXPECT_NE(flash.refuse(odd, Options(flash.options)), "");
}

TEST(Positions, AreWhatThePapersSay) {
  EXPECT_DOUBLE_EQ(Sinusoid(0, 0, 8), 0);
  EXPECT_DOUBLE_EQ(Sinusoid(0, 1, 8), 1);
  EXPECT_DOUBLE_EQ(Sinusoid(3, 0, 8), std::sin(3.0));
  EXPECT_NEAR(Sinusoid(3, 5, 8), std::cos(3.0 / 100), 1e-12);  // 10000^(4/8) = 100
  for (Index head = 0; head < 8; ++head)
    EXPECT_DOUBLE_EQ(AlibiSlope(head, 8), std::pow(2.0, -static_cast<double>(head + 1)));
}

TEST(Positions, RotaryProductsDependOnTheDistanceAlone) {
  Problem p = ProblemOf(50, 16, 1);
  p.layer.encoding = Encoding::kRotary;
  const PositionTables tables(p.Resolve());
  const auto product = [&](Index query, Index key) {
    std::vector<float> q(16), k(16);
    for (int c = 0; c < 16; ++c) q[c] = std::sin(c + 1.0f), k[c] = std::cos(2.0f * c);
    tables.RotateQuery(query, 1, q.data());
    tables.RotateKey(key, 1, k.data());
    return std::inner_product(q.begin(), q.end(), k.begin(), 0.0);
  };
  EXPECT_NEAR(product(7, 3), product(41, 37), 1e-5);
  EXPECT_GT(std::abs(product(7, 3) - product(7, 4)), 0.01);
}

TEST(Positions, AlibiFallsOffOnBothSides) {
  Problem p = ProblemOf(5, 16, 2);
  p.layer.encoding = Encoding::kAlibi;
  p.layer.cross = true, p.keys = 9;  // the last query stands at the last key
  const PositionTables tables(p.Resolve());
  for (Index i = 0; i < 5; ++i)
    for (Index j = 0; j < 9; ++j)
      EXPECT_DOUBLE_EQ(tables.Bias().At(0, 1, i, j), -std::pow(2.0, -8) * std::abs(i + 4 - j));
}

TEST(Recurrent, LooksBackOnly) {
  for (const char* name : {"rnn", "lstm", "gru"}) {
    Bench bench(name, ProblemOf(30, 16, 1));
    const std::vector<bool> reached = Reached(&bench, 12);
    for (Index i = 0; i < 30; ++i) EXPECT_EQ(reached[i], i >= 12) << name << " row " << i;
  }
}

TEST(Convolution, ReachesItsWidth) {
  for (Index width : {1, 4, 5}) {
    Problem p = ProblemOf(30, 16, 1);
    p.layer.width = width;
    Bench centred("convolution", p);
    const Index left = (width - 1) / 2;
    std::vector<bool> reached = Reached(&centred, 12);
    for (Index i = 0; i < 30; ++i)
      EXPECT_EQ(reached[i], i >= 12 - (width - 1 - left) && i <= 12 + left) << width << " " << i;
    p.mask.causal = true;
    Bench causal("convolution", p);
    reached = Reached(&causal, 12);
    for (Index i = 0; i < 30; ++i) EXPECT_EQ(reached[i], i >= 12 && i < 12 + width);
  }
}

TEST(SelfAttention, ReachesWhatItsMaskAdmits) {
  Problem p = ProblemOf(30, 16, 2);
  p.mask.pattern = Mask::Pattern::kLocal, p.mask.window = 4;
  Bench bench("self_attention", p);
  const std::vector<bool> reached = Reached(&bench, 12);
  for (Index i = 0; i < 30; ++i) EXPECT_EQ(reached[i], bench.problem.Admits(i, 12)) << i;
}

TEST(Layers, ThreadsChangeNothingThatMatters) {
  for (const Kernel* layer : Layers()) {
    Problem p = ProblemOf(70, 40, 1);
    if (layer->name == "convolution") p.layer.width = 3;
    const Bench bench(layer->name.data(), p);
    const std::vector<float> one = bench.Run(1), three = bench.Run(3);
    EXPECT_EQ(three, bench.Run(3)) << layer->name << " is not deterministic";
    for (std::size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(one[i], three[i], 1e-5);
  }
}

TEST(Layers, CountAsTableOneDoes) {
  const auto cost = [](const char* name, Index n, Index d) {
    Problem p = ProblemOf(n, d, 1);
    if (std::string(name) == "convolution") p.layer.width = 3, p.mask.causal = true;
    const Kernel& layer = *FindKernel(name);
    return layer.layer->useful(p.Resolve(), Options(layer.options)).flops;
  };
  const auto sequential = [](const char* name, Index n) {
    return FindKernel(name)->layer->sequential(ProblemOf(n, 8, 1).Resolve());
  };
  EXPECT_EQ(cost("self_attention", 100, 10), 8.0 * 100 * 10 * 10 + 4.0 * 100 * 100 * 10);
  EXPECT_EQ(cost("rnn", 100, 10), 4.0 * 100 * 10 * 10);
  EXPECT_EQ(cost("lstm", 100, 10), 16.0 * 100 * 10 * 10);
  EXPECT_EQ(cost("gru", 100, 10), 12.0 * 100 * 10 * 10);
  EXPECT_EQ(cost("convolution", 100, 10), 2.0 * (3 * 100 - 3) * 10 * 10);  // 3 lie before the start
  EXPECT_EQ(sequential("self_attention", 100), 1);
  EXPECT_EQ(sequential("convolution", 100), 1);
  EXPECT_EQ(sequential("lstm", 100), 100);
  const Kernel& lstm = *FindKernel("lstm");
  EXPECT_EQ(ParametersOf(WeightsOf(lstm, ProblemOf(100, 10, 1).Resolve(), Options())),
            4 * (10 * 10 + 10 * 10 + 10 + 10));
}

TEST(Layers, TheCheckSeesAWrongRow) {
  Kernel faulty = *FindKernel("lstm");
  faulty.run = [](const Problem& p, const Inputs& in, const Output& out, const Context& context) {
    FindKernel("lstm")->run(p, in, out, context);
    out.out.Row<float>(1, 0, 7)[2] += 1e-3f;
  };
  Problem p = ProblemOf(20, 16, 1);
  p.batch = 2;
  p.Resolve();
  const OwnedInputs inputs = OwnedInputs::Make(faulty, Options(), p, {}, 1);
  EXPECT_EQ(Check(*FindKernel("lstm"), p, Options(), inputs.view(), {.rows = 0}).reason, "");
  EXPECT_NE(
      Check(faulty, p, Options(), inputs.view(), {.rows = 0}).reason.find("batch 1 head 0 query 7"),
      std::string::npos);
}

}  // namespace
}  // namespace attnbench
