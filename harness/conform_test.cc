// SPDX-License-Identifier: Apache-2.0
// Every kernel, on every group of edge cases it does not refuse, agrees with the oracle.
#include "harness/conform.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <random>

namespace attnbench {
namespace {

using Parameter = std::tuple<std::string, std::string>;  // kernel, group

class EveryKernel : public testing::TestWithParam<Parameter> {};

TEST_P(EveryKernel, AgreesWithTheOracleOn) {
  const auto& [name, group] = GetParam();
  const Kernel& kernel = *FindKernel(name);
  const Conformance result = Conform(kernel, EdgeCases(group), 2);
  RecordProperty("passed", static_cast<int>(result.passed));
  RecordProperty("refused", static_cast<int>(result.refused));
  for (std::size_t i = 0; i < result.failures.size() && i < 20; ++i)
    ADD_FAILURE() << result.failures[i];
  EXPECT_LE(result.failures.size(), 20u) << "and more";
  if (result.passed == 0 && result.failures.empty())
    GTEST_SKIP() << "refuses all " << result.refused << " cases";
}

std::vector<std::string> KernelNames() {
  std::vector<std::string> names;
  for (const Kernel* kernel : Kernels()) names.emplace_back(kernel->name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Conformance, EveryKernel,
                         testing::Combine(testing::ValuesIn(KernelNames()),
                                          testing::ValuesIn(EdgeGroups())),
                         [](const testing::TestParamInfo<Parameter>& info) {
                           return std::get<0>(info.param) + "_" + std::get<1>(info.param);
                         });

TEST(Fuzz, RandomProblemsAgreeWithTheOracle) {
  const char* given = std::getenv("ATTNBENCH_FUZZ_SEED");
  const std::uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("fuzz seed: ATTNBENCH_FUZZ_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::vector<EdgeCase> cases;
  for (int i = 0; i < 250; ++i) cases.push_back(FuzzCase(seed + i));
  for (const Kernel* kernel : Kernels()) {
    if (kernel->host != "cpp") continue;  // other tests load plugins that are wrong on purpose
    for (const std::string& failure : Conform(*kernel, cases, 2).failures)
      ADD_FAILURE() << kernel->name << " " << failure;
  }
}

TEST(Fuzz, OptionsAreDrawnFromAllOfTheirRangeThatIsServed) {
  Kernel kernel{
      .name = "drawn",
      .options = {{"flag", 0, 0, 1, ""}, {"block", 64, 16, 4096, ""}, {"odd", 3, 0, 9, ""}}};
  kernel.refuse = [](const Problem&, const Options& options) {
    return std::string(options["odd"] % 2 ? "" : "even");
  };
  std::map<std::string, std::map<Index, int>> drawn;
  int unchanged = 0;
  constexpr int kSeeds = 2000;
  for (int seed = 0; seed < kSeeds; ++seed) {
    const Options options = FuzzOptions(kernel, Problem(), static_cast<std::uint64_t>(seed));
    bool all = true;
    for (const Option& option : kernel.options) {
      const Index value = options[option.name];
      ASSERT_TRUE(option.min <= value && value <= option.max) << option.name << " " << value;
      ++drawn[option.name][value];
      all &= value == option.default_value;
    }
    unchanged += all;
  }
  EXPECT_GT(unchanged, kSeeds / 5);
  EXPECT_EQ(drawn["flag"].size(), 2u);
  EXPECT_EQ(drawn["odd"].size(), 5u);  // never an even one
  EXPECT_GT(drawn["block"].size(), 100u);
  for (const Index value : {16, 17, 63, 65, 128, 4096})
    EXPECT_GT(drawn["block"][value], 0) << value;
}

TEST(Registry, NoKernelRefusesEverything) {
  std::vector<EdgeCase> cases;
  for (const char* group : {"lengths", "masks", "tiles", "scores", "heads"})
    for (EdgeCase& c : EdgeCases(group)) cases.push_back(std::move(c));
  for (const Kernel* kernel : Kernels()) {
    bool serves = false, unavailable = false;
    for (const EdgeCase& c : cases) {
      const std::string refusal = kernel->refuse(c.problem, Options(kernel->options));
      serves |= refusal.empty();
      unavailable |= refusal.rfind("built without", 0) == 0;
    }
    EXPECT_TRUE(serves || unavailable) << kernel->name;
  }
}

// A kernel with a mistake of our choice: the check must see it.
Kernel Faulty(const char* name,
              std::function<void(const Problem&, const Output&, const Context&)> fault,
              std::size_t workspace = 256) {
  return {.name = name,
          .provides = kLse,
          .workspace = [workspace](const Problem&, const Options&, int) { return workspace; },
          .run =
              [fault](const Problem& p, const Inputs& in, const Output& out, const Context& c) {
                FindKernel("reference")->run(p, in, out, c);
                fault(p, out, c);
              }};
}

class Faults : public testing::Test {
 protected:
  std::string ReasonFor(const Kernel& kernel, Layout layout = Layout::kPacked) {
    Problem p;
    p.queries = 70, p.head_dim = 16, p.heads = 2;
    p.Resolve();
    const OwnedInputs inputs = OwnedInputs::Make(p, {}, 1);
    return Check(kernel, p, Options(kernel.options), inputs.view(),
                 {.rows = 0, .provides = kLse, .out_layout = layout})
        .reason;
  }
};

TEST_F(Faults, TheFaultlessPasses) {
  EXPECT_EQ(ReasonFor(Faulty("none", [](auto&, auto&, auto&) {})), "");
}
TEST_F(Faults, AWrongElementIsSeen) {
  EXPECT_NE(ReasonFor(Faulty("off", [](auto&, const Output& o,
                                       auto&) { o.out.Row<float>(0, 1, 33)[3] += 1e-3f; }))
                .find("out: error"),
            std::string::npos);
}
TEST_F(Faults, AnUnwrittenElementIsSeen) {
  Kernel lazy{.name = "lazy", .run = [](auto&...) {}};
  lazy.run = [](const Problem&, const Inputs&, const Output&, const Context&) {};
  EXPECT_NE(ReasonFor(lazy).find("unwritten"), std::string::npos);
}
TEST_F(Faults, NaNIsSeen) {
  EXPECT_NE(ReasonFor(Faulty("nan", [](auto&, const Output& o,
                                       auto&) { o.out.Row<float>(0, 0, 12)[0] = NAN; }))
                .find("is nan where the oracle has"),
            std::string::npos);
}
TEST_F(Faults, AWrongLogSumExpIsSeen) {
  EXPECT_NE(ReasonFor(Faulty("lse", [](auto&, const Output& o, auto&) { o.lse[5] += 0.01f; }))
                .find("lse: error"),
            std::string::npos);
}
TEST_F(Faults, WritingBeyondTheWorkspaceIsSeen) {
  for (std::ptrdiff_t at : {-1, 256})
    EXPECT_NE(
        ReasonFor(Faulty("beyond",
                         [at](auto&, auto&, const Context& c) { c.workspace[at] = std::byte{0}; }))
            .find("workspace"),
        std::string::npos);
}
TEST_F(Faults, WritingIntoThePaddingIsSeen) {
  EXPECT_NE(ReasonFor(Faulty("padding", [](auto&, const Output& o,
                                           auto&) { o.out.Row<float>(0, 0, 0)[16] = 0; }),
                      Layout::kPadded)
                .find("padding"),
            std::string::npos);
}
TEST_F(Faults, ReadingPoisonedWorkspaceIsSeen) {
  EXPECT_NE(ReasonFor(Faulty("reads",
                             [](auto&, const Output& o, const Context& c) {
                               o.out.Row<float>(0, 0, 0)[0] +=
                                   *reinterpret_cast<const float*>(c.workspace);
                             }))
                .find("nan"),
            std::string::npos);
}

TEST_F(Faults, AMistakeUnderAnotherOptionIsSeenByRandomProblems) {
  Kernel kernel = Faulty("option", [](const Problem&, const Output& o, const Context& c) {
    if ((*c.options)["block"] < 40) o.out.Row<float>(0, 0, 0)[0] = NAN;
  });
  kernel.options = {{"block", 64, 16, 4096, ""}};
  std::vector<EdgeCase> cases(60, {.group = "few", .name = "9x9", .random = true});
  for (std::size_t i = 0; i < cases.size(); ++i) {
    cases[i].seed = i;
    cases[i].problem.queries = 9, cases[i].problem.head_dim = 4;
    cases[i].problem.Resolve();
  }
  const Conformance result = Conform(kernel, cases);
  EXPECT_GT(result.passed, 0);
  ASSERT_FALSE(result.failures.empty());
  EXPECT_NE(result.failures[0].find("block="), std::string::npos) << result.failures[0];
  for (EdgeCase& c : cases) c.random = false;  // under its defaults it is right
  EXPECT_EQ(Conform(kernel, cases).failures, std::vector<std::string>());
}

TEST_F(Faults, BitsThatDependOnTheWorkspaceOrOnTheRunAreSeen) {
  std::vector<EdgeCase> one = {FuzzCase(1)};
  one[0].problem = Problem();
  one[0].problem.queries = 70, one[0].problem.head_dim = 16;
  one[0].problem.Resolve();
  one[0].input = {}, one[0].layout = Layout::kPacked, one[0].seed = 2;
  const auto failures = [&](std::function<void(const Problem&, const Output&, const Context&)> f) {
    return Conform(Faulty("unsteady", std::move(f)), one).failures;
  };
  EXPECT_TRUE(failures([](auto&, auto&, auto&) {}).empty());
  // One bit of one element: far inside the tolerance.
  const auto nudge = [](const Output& o) {
    float& x = o.out.Row<float>(0, 0, 3)[1];
    x = std::nextafter(x, 2.0f * x);
  };
  const auto stale = failures([&](auto&, const Output& o, const Context& c) {
    if (c.workspace[5] == std::byte{0}) nudge(o);
  });
  ASSERT_EQ(stale.size(), 1u);
  EXPECT_NE(stale[0].find("other bits"), std::string::npos) << stale[0];
  int runs = 0;
  EXPECT_EQ(failures([&](auto&, const Output& o, auto&) {
              if (++runs == 3) nudge(o);
            }).size(),
            1u);
}

}  // namespace
}  // namespace attnbench
