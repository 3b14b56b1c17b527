// SPDX-License-Identifier: Apache-2.0
// Kernels whose problem several ranks share: what each rank holds, the oracle under mpirun, and
// sweeps in which a rank does not come through.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "harness/launch.h"
#include "harness/record.h"
#include "harness/testing.h"
#include "kernels/ranks.h"

namespace attnbench {
namespace {

using nlohmann::json;

Problem Square(Index n, bool causal) {
  Problem p;
  p.queries = n, p.head_dim = 8, p.heads = 4;
  p.mask.causal = causal;
  return p.Resolve();
}

TEST(MpiShards, EveryRowIsInExactlyOneOfThem) {
  for (const char* name : {"ring", "ulysses"})
    for (const Index n : {1, 2, 3, 7, 64, 101})
      for (const bool causal : {false, true})
        for (const int ranks : {1, 2, 3, 4, 16}) {
          const Kernel& kernel = *FindKernel(name);
          const Options options(kernel.options);
          std::map<Index, int> seen;
          for (int r = 0; r < ranks; ++r)
            for (const RowRun& run :
                 DistributionOf(kernel)->shard(Square(n, causal), options, ranks, r).queries)
              for (Index i = 0; i < run.count; ++i) ++seen[run.first + i];
          EXPECT_EQ(std::ssize(seen), n) << name << ", " << ranks << " ranks";
          for (const auto& [row, times] : seen) EXPECT_EQ(times, 1) << name << ", row " << row;
        }
}

// Pairs that a rank's queries admit, over the mean.
double MostOverMean(const Problem& p, const Options& options, int ranks) {
  double most = 0, all = 0;
  for (int r = 0; r < ranks; ++r) {
    double own = 0;
    for (const RowRun& run :
         DistributionOf(*FindKernel("ring"))->shard(p, options, ranks, r).queries)
      for (Index i = run.first; i < run.first + run.count; ++i)
        own += static_cast<double>(p.Admitted(i, p.keys).Count());
    most = std::max(most, own), all += own;
  }
  return most * ranks / all;
}

TEST(MpiShards, ZigzagGivesEveryRankTheSameWorkUnderACausalMask) {
  Options options(FindKernel("ring")->options);
  const Problem p = Square(8192, true);
  for (const int ranks : {2, 3, 8, 64}) {
    options.Set("zigzag", 1);
    EXPECT_LT(MostOverMean(p, options, ranks), 1.01) << ranks << " ranks";
    options.Set("zigzag", 0);  // the last part of R sees (2 R - 1) / R times the mean
    EXPECT_NEAR(MostOverMean(p, options, ranks), (2.0 * ranks - 1) / ranks, 0.02);
  }
}

TEST(MpiShards, WhatARankHoldsShrinksWithTheirNumber) {
  for (const char* name : {"ring", "ulysses"}) {
    const Kernel& kernel = *FindKernel(name);
    const Options options(kernel.options);
    const auto bytes = [&](Index n, int ranks) {
      return static_cast<double>(
          DistributionOf(kernel)->workspace(Square(n, false), options, 1, ranks, 0));
    };
    EXPECT_NEAR(bytes(1 << 20, 4) / bytes(1 << 20, 2), 0.5, 0.02) << name;
    EXPECT_NEAR(bytes(1 << 20, 4) / bytes(1 << 19, 2), 1.0, 0.02) << name;
  }
}

class MpiTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (const std::string reason = NoRanks(); !reason.empty()) GTEST_SKIP() << reason;
  }
  std::vector<json> Sweep(const std::string& text, const std::string& arguments = "",
                          const std::string& settings = "max_seconds_per_case = 0.01\n") {
    const std::string file = folder_.Write(
        "ranks.toml", "[sweep]\nrounds = 1\nrepeat_slowed = false\n" + settings + text);
    outcome_ = Harness("sweep " + file + " -o " + folder_.File("run") + " " + arguments);
    EXPECT_EQ(outcome_.status, 0) << outcome_.output;
    return ReadRecords(folder_.File("run") + "/records.jsonl").records;
  }

  TemporaryFolder folder_;
  Outcome outcome_;
};

// By the same oracle, under the same tolerance, as in one process.
TEST_P(MpiTest, TheKernelsAgreeWithTheOracle) {
  const std::string ranks = std::to_string(GetParam());
  // More ranks than processors wait for each other most of the time: fewer cases then.
  const std::string cases = GetParam() > 2 ? "--every 16 --fuzz 10" : "--every 6 --fuzz 20";
  const Outcome outcome = Harness("check --threads 1 " + cases + " --ranks " + ranks);
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  for (const char* kernel : {"ring", "ulysses"})
    EXPECT_NE(outcome.output.find(std::string("ok   ") + kernel + " on " + ranks + " ranks: "),
              std::string::npos)
        << outcome.output;
}
INSTANTIATE_TEST_SUITE_P(Ranks, MpiTest, testing::Values(1, 2, 3, 4),
                         [](const auto& info) { return std::to_string(info.param); });

using MpiSweep = MpiTest;

TEST_F(MpiSweep, RanksAreAnAxis) {
  const auto records = Sweep(
      "[axes]\nkeys = 65\nheads = 2\nhead_dim = 16\ncausal = true\nranks = [1, 2, 3]\n"
      "[[kernel]]\nname = [\"ring\", \"ulysses\", \"naive\"]\n"
      "[[kernel]]\nname = \"ring\"\noptions = {overlap = 0}\nwhere = {ranks = [2]}\n");
  ASSERT_EQ(records.size(), 10u) << outcome_.output;
  for (const json& record : records) {
    const int ranks = record["ranks"];
    if (ranks > 1 &&
        (record["kernel"] == "naive" || (record["kernel"] == "ulysses" && ranks > 2))) {
      EXPECT_EQ(record["status"], "refused");
      EXPECT_NE(record["reason"].get<std::string>().find("ranks"), std::string::npos);
      continue;
    }
    ASSERT_EQ(record["status"], "ok") << record["reason"];
    EXPECT_LE(record["error"].get<double>(), record["tolerance"].get<double>());
    if (record["kernel"] == "naive") continue;
    const std::string what = record["kernel"].get<std::string>() + " on " + std::to_string(ranks);
    EXPECT_EQ(record["parts"]["compute_ns"].size(), static_cast<std::size_t>(ranks)) << what;
    if (ranks == 1) {
      EXPECT_EQ(record["bytes_sent"], 0) << what;
      continue;
    }
    EXPECT_EQ(record["bytes_sent"], record["bytes_to_send"]) << what;
    if (record["kernel"] == "ring") {  // (R - 1) n heads (d + d_v) floats
      EXPECT_EQ(record["bytes_sent"], (ranks - 1) * 65 * 2 * 32 * 4);
    }
    const auto each = record["rank_peak_rss_bytes"];
    EXPECT_EQ(each.size(), static_cast<std::size_t>(ranks)) << what;
    EXPECT_EQ(record["peak_rss_bytes"], *std::max_element(each.begin(), each.end()));
  }
}

TEST_F(MpiSweep, ARankThatDiesEndsItsCaseAndNoOther) {
  // Sampling would take three seconds; rank 1 dies after one.
  const auto records = Sweep(
      "[axes]\nkeys = 300\nheads = 2\nhead_dim = 16\nranks = [1, 2]\n"
      "[[kernel]]\nname = [\"ring\", \"ulysses\"]\n",
      "--plugin " + TestPlugin("ranks"),
      "max_seconds_per_case = 3\ntarget_interval = 1e-9\n"
      "plateau = false\n");
  ASSERT_EQ(records.size(), 4u) << outcome_.output;
  for (const json& record : records) {
    const std::string reason = record["reason"];
    if (record["ranks"] == 1) {
      EXPECT_EQ(record["status"], "ok") << reason;
      continue;
    }
    EXPECT_EQ(record["status"], "failed");
    EXPECT_NE(reason.find("process rank 1"), std::string::npos) << reason;
    EXPECT_NE(reason.find("signal 14"), std::string::npos) << reason;
  }
}

}  // namespace
}  // namespace attnbench
