// SPDX-License-Identifier: Apache-2.0
#include "harness/measure.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "harness/ceilings.h"
#include "harness/inputs.h"
#include "harness/machine.h"
#include "harness/predict.h"
#include "kernels/contract/plugin.h"

namespace attnbench {
namespace {

using nlohmann::json;

Case CaseOf(const std::string& kernel, Index n, Index head_dim = 32) {
  Case c;
  c.kernel = kernel;
  c.problem.queries = n, c.problem.head_dim = head_dim;
  c.problem.Resolve();
  c.seed = 1;
  return c;
}

MeasureSettings Short() {
  return {.sampling = {.stop = {.max_seconds = 0.1}, .warmup_seconds = 0.005}};
}

TEST(MedianWithInterval, TakesOrderStatistics) {
  const MedianInterval six = MedianWithInterval({6, 5, 4, 3, 2, 1});
  EXPECT_EQ(six.median, 3.5);
  EXPECT_EQ(six.low, 1);  // 1 - 2/64 = 97 %
  EXPECT_EQ(six.high, 6);
  std::vector<double> ten;
  for (int i = 1; i <= 10; ++i) ten.push_back(i);
  const MedianInterval of_ten = MedianWithInterval(ten);
  EXPECT_EQ(of_ten.low, 2);  // the tabled ranks for n = 10 are 2 and 9
  EXPECT_EQ(of_ten.high, 9);
  const MedianInterval one = MedianWithInterval({7});
  EXPECT_EQ(one.low, 7);
  EXPECT_EQ(one.high, 7);
}

TEST(MedianWithInterval, CoversTheMedianIn95PercentOfSamples) {
  Random random(4);
  for (int n : {8, 25, 100, 1500}) {
    int covered = 0;
    constexpr int kTrials = 1000;
    for (int t = 0; t < kTrials; ++t) {
      std::vector<double> samples(n);
      for (double& x : samples) x = random.Normal();
      const MedianInterval interval = MedianWithInterval(samples);
      covered += interval.low <= 0 && 0 <= interval.high;
    }
    EXPECT_GE(covered, 0.93 * kTrials) << n;
    EXPECT_LE(covered, 0.999 * kTrials) << n;
  }
}

TEST(MeasureCase, FillsARecord) {
  const json r = MeasureCase(CaseOf("naive", 64), Short());
  ASSERT_EQ(r["status"], "ok") << r;
  EXPECT_TRUE(r["stop"] == "precision" || r["stop"] == "plateau" || r["stop"] == "time");
  EXPECT_GE(r["samples_ns"].size(), 5u);
  const std::vector<double> samples = r["samples_ns"];
  EXPECT_GT(*std::min_element(samples.begin(), samples.end()), 0);
  EXPECT_LE(r["ci95_ns"][0], r["median_ns"]);
  EXPECT_GE(r["ci95_ns"][1], r["median_ns"]);
  EXPECT_DOUBLE_EQ(r["useful"]["flops"], 4.0 * 64 * 64 * 32);
  EXPECT_NEAR(r["gflops"].get<double>(), 4.0 * 64 * 64 * 32 / r["median_ns"].get<double>(), 1e-9);
  EXPECT_GT(r["ceiling_gflops"], 1.0);
  EXPECT_GT(r["fraction_of_ceiling"], 0.0);
  EXPECT_LT(r["fraction_of_ceiling"], 1.0);
  EXPECT_LE(r["error"], r["tolerance"]);
  EXPECT_EQ(r["rows_checked"], 64);
  EXPECT_EQ(r["workspace_bytes"], 64 * 64 * 4);
  EXPECT_EQ(r["host"], "cpp");
  EXPECT_EQ(r["cpus"].size(), 1u);
  EXPECT_EQ(r["total_ns"], r["median_ns"]) << "nothing to plan, nothing to select";
}

TEST(MeasureCase, AKernelThatSelectsIsChargedForItAndSaysHowFarFromDenseItIs) {
  Case c = CaseOf("top_blocks", 256);
  c.options = {{"block", 32}, {"blocks", 4}};
  const json few = MeasureCase(c, Short());
  ASSERT_EQ(few["status"], "ok") << few["reason"];
  EXPECT_GT(few["select_ns"].get<double>(), 0);
  EXPECT_EQ(few["total_ns"], few["median_ns"].get<double>() + few["select_ns"].get<double>());
  EXPECT_EQ(few["useful"]["exps"], 256 * 128.0) << "pairs that it attends";
  EXPECT_GT(few["dense"]["mass_recall"], 0.3);
  EXPECT_LT(few["dense"]["mass_recall"], 0.9);
  EXPECT_GT(few["dense"]["rel_l2"], 0.1);
  c.options["blocks"] = 8;
  const json all = MeasureCase(c, Short());
  EXPECT_NEAR(all["dense"]["mass_recall"].get<double>(), 1, 1e-9);
  EXPECT_NEAR(all["dense"]["cosine"].get<double>(), 1, 1e-6);
  EXPECT_LT(all["dense"]["max"], 1e-5);
}

TEST(MeasureCase, CountersAreNumbersOrNullWithAReason) {
  const json r = MeasureCase(CaseOf("naive", 64), Short());
  ASSERT_TRUE(r["counters"].is_object()) << r;
  bool whole = true;
  for (const char* name : {"instructions", "cycles", "cache_misses", "branch_misses", "page_faults",
                           "context_switches"}) {
    whole &= r["counters"][name].is_number();
    EXPECT_TRUE(r["counters"][name].is_number() || r["counters"][name].is_null()) << name;
  }
  EXPECT_EQ(r["counters_reason"].get<std::string>().empty(), whole) << r["counters_reason"];
  if (r["counters"]["instructions"].is_number()) {
    // At least one instruction for each 32 of the 2 * 64 * 64 * 32 multiply-adds.
    EXPECT_GT(r["counters"]["instructions"], 8192.0);
  }
  MeasureSettings later = Short();
  later.check = false;
  EXPECT_FALSE(MeasureCase(CaseOf("naive", 64), later).contains("counters"));
}

TEST(MeasureCase, AShortRunIsSampledInGroups) {
  const json r = MeasureCase(CaseOf("naive", 1, 1), Short());
  EXPECT_GT(r["runs_per_sample"], 10);
  EXPECT_LT(r["median_ns"], 20000.0);
}

TEST(MeasureCase, SamplesUntilPreciseOrOutOfTime) {
  MeasureSettings endless = Short();
  endless.sampling.stop.target_interval = 0;
  endless.sampling.stop.plateau = false;
  EXPECT_EQ(MeasureCase(CaseOf("naive", 64), endless)["stop"], "time");
  MeasureSettings content = Short();
  content.sampling.stop.target_interval = 1e9;
  const json r = MeasureCase(CaseOf("naive", 64), content);
  EXPECT_EQ(r["stop"], "precision");
  EXPECT_LE(r["samples_ns"].size(), 7u);
}

TEST(MeasureCase, ColdCyclesThroughMoreThanTheCache) {
  Case c = CaseOf("naive", 64);
  c.cache = "cold";
  const json r = MeasureCase(c, Short());
  EXPECT_EQ(r["status"], "ok");
  EXPECT_GE(r["ring_bytes"], 3.0 * static_cast<double>(LastLevelCacheBytes()));
  EXPECT_GT(r["ceiling_gbps"], 0.0) << "the bandwidth that feeds it is stated";
  c.cache = "warm";
  EXPECT_FALSE(MeasureCase(c, Short()).contains("ring_bytes"));
}

TEST(MeasureCase, RefusalsAndUnknownNamesSayWhy) {
  Case c = CaseOf("naive", 64);
  c.problem.score = Score::kAdditive, c.problem.hidden = 4;
  const json r = MeasureCase(c, Short());
  EXPECT_EQ(r["status"], "refused");
  EXPECT_EQ(r["reason"], "score 'additive' is not served");
  EXPECT_THROW(MeasureCase(CaseOf("no_such", 8), Short()), std::invalid_argument);
  EXPECT_THROW(MeasureSettingsFromJson({{"min_samples", 0}}), std::invalid_argument);
}

class Plugins : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    for (const char* name : {"wrong", "allocates"})
      ASSERT_EQ(LoadPlugin(std::string(ATTNBENCH_TEST_PLUGINS "/attnbench_test_") + name + ".so"),
                "");
  }
};

TEST_F(Plugins, AWrongKernelIsNotTimed) {
  const json r = MeasureCase(CaseOf("wrong", 64), Short());
  EXPECT_EQ(r["status"], "incorrect");
  EXPECT_GT(r["error"], r["tolerance"]);
  EXPECT_NE(r["reason"].get<std::string>().find("out: error"), std::string::npos);
  EXPECT_FALSE(r.contains("samples_ns"));
}

#ifndef __SANITIZE_ADDRESS__  // its allocator has memory of its own
TEST_F(Plugins, MemoryIsTheWorkspaceUnlessAKernelHoards) {
  // Workspace by the contract, what became resident, and the guard's prediction: one figure.
  const json naive = MeasureMemory(CaseOf("naive", 8192));
  const double scores = 8192.0 * 8192 * 4;
  EXPECT_EQ(naive["workspace_bytes"], scores);
  EXPECT_NEAR(naive["peak_rss_bytes"].get<double>() / scores, 1, 0.05);
  EXPECT_NEAR((naive["peak_rss_bytes"].get<double>() + naive["tensor_bytes"].get<double>()) /
                  DemandOf(CaseOf("naive", 8192)).bytes(),
              1, 0.05);
  EXPECT_FALSE(naive.contains("flags"));
  const json flash = MeasureMemory(CaseOf("flash", 8192));
  EXPECT_LT(flash["peak_rss_bytes"], 0.05 * scores) << "nothing that grows with the square";
  EXPECT_FALSE(flash.contains("flags")) << flash;
  const json hoarder = MeasureMemory(CaseOf("allocates", 16));
  EXPECT_EQ(hoarder["host"], "plugin");
  EXPECT_EQ(hoarder["workspace_bytes"], 0);
  EXPECT_GT(hoarder["peak_rss_bytes"], 60e6);
  EXPECT_EQ(hoarder["flags"], json::array({"hidden_memory"}));
}
#endif

// The child as the sweep starts it.
class ChildProcess : public testing::Test {
 protected:
  int Ask(const std::string& lines, const std::string& arguments = "") {
    // Of this process: ctest runs the tests side by side.
    const std::string base = testing::TempDir() + "attnbench_child" + std::to_string(getpid());
    std::ofstream(base + ".in") << lines;
    const std::string command = std::string(ATTNBENCH_HARNESS) + " child " + arguments + " < " +
                                base + ".in > " + base + ".out 2> " + base + ".err";
    const int status = std::system(command.c_str());
    std::ifstream out(base + ".out");
    replies_.clear();
    for (std::string line; std::getline(out, line);) replies_.push_back(json::parse(line));
    return WEXITSTATUS(status);
  }
  static std::string Request(const Case& c, const char* pass = "measure") {
    return json{{"case", ToJson(c)},
                {"pass", pass},
                {"settings", {{"max_seconds", 0.05}, {"warmup_seconds", 0.001}}}}
               .dump() +
           "\n";
  }
  std::vector<json> replies_;
};

TEST_F(ChildProcess, AnswersALineARequestUntilTheEnd) {
  EXPECT_EQ(Ask(Request(CaseOf("naive", 32)) + Request(CaseOf("naive", 32), "memory") +
                Request(CaseOf("no_such", 32))),
            0);
  ASSERT_EQ(replies_.size(), 3u);
  EXPECT_EQ(replies_[0]["status"], "ok");
  EXPECT_TRUE(replies_[1].contains("peak_rss_bytes"));
  EXPECT_EQ(replies_[2]["status"], "failed");
  EXPECT_EQ(replies_[2]["reason"], "kernel: unknown kernel 'no_such'");
}

TEST_F(ChildProcess, AnExceptionIsARecordAndTheChildLivesOn) {
  EXPECT_EQ(Ask(Request(CaseOf("throws", 32)) + Request(CaseOf("naive", 32)),
                "--plugin " ATTNBENCH_TEST_PLUGINS "/attnbench_test_throws.so"),
            0);
  ASSERT_EQ(replies_.size(), 2u);
  EXPECT_EQ(replies_[0]["status"], "failed");
  EXPECT_EQ(replies_[0]["reason"], "the kernel gives up");
  EXPECT_EQ(replies_[1]["status"], "ok");
}

TEST_F(ChildProcess, ALineThatIsNoRequestEndsIt) {
  EXPECT_EQ(Ask("not json\n"), 2);
  EXPECT_TRUE(replies_.empty());
}

TEST(Ceilings, AreRatesOfThisMachine) {  // no ratios: neighbours may hold the other processor
  double cache = 0, memory = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    cache = std::max(cache, ProbeReadGbps(DataCacheBytes().at(0) / 2, 1));
    memory = std::max(memory, ProbeReadGbps(4 * LastLevelCacheBytes(), 1));
  }
#ifndef __SANITIZE_ADDRESS__       // whose checks take longer than either
  EXPECT_GT(cache, 0.8 * memory);  // four times it and more where nothing disturbs
#endif
  EXPECT_GT(ProbeFlops(DType::kF32, 1), 0.1);
  EXPECT_GT(ProbeFlops(DType::kBF16, 2), 0.1);
  EXPECT_GT(ProbeGexps(1), 0.001);
  const json table = PeakTable({1});
  ASSERT_EQ(table["rows"].size(), 1u);
  const bool amx = table["amx"] == "native";
  EXPECT_EQ(table["amx"].get<std::string>().starts_with("none: "), !amx) << "or why not";
  const json& tiles = table["rows"][0]["amx_bf16_gflops"];
  EXPECT_TRUE(amx ? tiles > table["rows"][0]["bf16_gflops"] : tiles.is_null()) << tiles;
  EXPECT_NE(FormatPeakTable(table).find("f32 GFLOP/s"), std::string::npos);
}

TEST(Machine, IsDescribed) {
  char name[] = "attnbench";
  char* argv[] = {name};
  const json e = DescribeEnvironment(1, argv, 42);
  EXPECT_EQ(e["argv"][0], "attnbench");
  EXPECT_EQ(e["seed"], 42);
  EXPECT_FALSE(e["cpu"]["allowed"].empty());
  EXPECT_FALSE(e["caches"].empty());
  EXPECT_GT(e["memory_limit_bytes"], 1u << 28);
  EXPECT_EQ(e["build"], BuildId());
  EXPECT_GE(BuildId().size(), 7u);
  EXPECT_GE(LastLevelCacheBytes(), DataCacheBytes().at(0));
}

}  // namespace
}  // namespace attnbench
