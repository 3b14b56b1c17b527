// SPDX-License-Identifier: Apache-2.0
#include "harness/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "harness/guards.h"
#include "harness/predict.h"
#include "harness/sweep_plan.h"

namespace attnbench {
namespace {

std::vector<Planned> Cases() {
  std::vector<Planned> cases;
  for (const char* kernel : {"naive", "reference", "luong"}) {
    for (Index keys = 8; keys <= 256; keys *= 2) {
      Planned planned;
      planned.c.kernel = kernel;
      planned.c.problem.keys = keys;
      planned.c.problem.head_dim = 8;
      planned.c.problem.Resolve();
      planned.hash = Hash(planned.c);
      planned.problem = ProblemHash(planned.c);
      planned.family = Family(planned.c);
      planned.work = static_cast<double>(keys * keys);
      cases.push_back(planned);
    }
  }
  return cases;
}

TEST(Schedule, ARoundVisitsEveryCaseOnceInAnOrderOfItsOwn) {
  const auto cases = Cases();
  std::set<std::vector<std::size_t>> orders;
  for (int round = 0; round < 6; ++round) {
    auto order = RoundOrder(cases, round, 1, false);
    EXPECT_EQ(order, RoundOrder(cases, round, 1, false)) << "the seed decides";
    EXPECT_TRUE(orders.insert(order).second);
    std::sort(order.begin(), order.end());
    for (std::size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], i);
  }
  EXPECT_NE(RoundOrder(cases, 1, 1, false), RoundOrder(cases, 1, 2, false));
}

TEST(Schedule, TheFirstRoundTakesTheSmallOfAFamilyFirst) {
  const auto cases = Cases();
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    std::map<std::string, double> last;
    for (const std::size_t i : RoundOrder(cases, 0, seed, false)) {
      EXPECT_GT(cases[i].work, last[cases[i].family]);
      last[cases[i].family] = cases[i].work;
    }
  }
}

TEST(Schedule, ByProblemKeepsTheKernelsOfAProblemTogether) {
  const auto cases = Cases();
  for (int round = 0; round < 4; ++round) {
    std::set<std::string> left;
    std::string current;
    for (const std::size_t i : RoundOrder(cases, round, 7, true)) {
      if (cases[i].problem == current) continue;
      if (!current.empty()) left.insert(current);
      current = cases[i].problem;
      EXPECT_FALSE(left.count(current));
    }
  }
}

TEST(Schedule, ShardsPartTheCasesWhateverTheirOrder) {
  const auto cases = Cases();
  std::multiset<std::string> all;
  for (int i = 1; i <= 3; ++i)
    for (const Case& c : Shard(cases, i, 3, false)) all.insert(Hash(c));
  EXPECT_EQ(all.size(), cases.size());
  for (const Planned& planned : cases) EXPECT_EQ(all.count(planned.hash), 1u);
  auto shuffled = cases;
  std::reverse(shuffled.begin(), shuffled.end());
  std::set<std::string> a, b;
  for (const Case& c : Shard(cases, 2, 3, false)) a.insert(Hash(c));
  for (const Case& c : Shard(shuffled, 2, 3, false)) b.insert(Hash(c));
  EXPECT_EQ(a, b) << "the order of the file does not matter";
}

TEST(Schedule, ShardsOfTheScalingSweepAreAsEvenAsItsHeaviestCaseAllows) {
  SweepRequest request;
  request.experiment = "experiments/scaling.toml";
  const std::vector<Planned> cases = MakePlan(request).cases;
  std::map<std::string, double> work;
  double total = 0, heaviest = 0;
  for (const Planned& planned : cases) {
    work[planned.hash] = planned.work;
    total += planned.work;
    heaviest = std::max(heaviest, planned.work);
  }
  for (int count = 1; count <= 64; ++count) {
    std::set<std::string> all;
    double most = 0;
    for (int i = 1; i <= count; ++i) {
      double load = 0;
      for (const Case& c : Shard(cases, i, count, false)) {
        EXPECT_TRUE(all.insert(Hash(c)).second);
        load += work.at(Hash(c));
      }
      most = std::max(most, load);
    }
    EXPECT_EQ(all.size(), cases.size());
    EXPECT_LE(most, 1.1 * std::max(total / count, heaviest)) << count << " shards";
  }
}

TEST(Schedule, ShardsKeepProblemsWholeWhereTheWorkIsEvenOrItIsAsked) {
  auto cases = Cases();
  for (Planned& planned : cases) planned.work = 1e12;
  const auto parted = [&](int count, bool whole_problems) {
    std::map<std::string, std::set<int>> shards;
    for (int i = 1; i <= count; ++i)
      for (const Case& c : Shard(cases, i, count, whole_problems)) shards[ProblemHash(c)].insert(i);
    return std::count_if(shards.begin(), shards.end(),
                         [](const auto& item) { return item.second.size() > 1; });
  };
  EXPECT_EQ(parted(2, false), 0) << "six problems of the same work";
  EXPECT_GT(parted(4, false), 0);
  EXPECT_EQ(parted(4, true), 0);
}

TEST(Budget, GivesEveryVisitItsShareOfWhatIsLeft) {
  Budget budget(100, 1);
  const double early = budget.Slice(0, {.first = 50, .later = 250, .runs_s = 0});
  EXPECT_GT(early, 0.02);
  EXPECT_LT(early, 0.35);
  EXPECT_EQ(budget.Slice(0, {.first = 1, .later = 1, .runs_s = 0}), 1) << "never more than the cap";
  EXPECT_EQ(budget.Slice(99, {.first = 50, .later = 0, .runs_s = 0}), 0.02) << "never nothing";
  EXPECT_TRUE(budget.Fits(0, {.first = 0, .later = 100, .runs_s = 1}));
  EXPECT_FALSE(budget.Fits(50, {.first = 0, .later = 100, .runs_s = 60}));
  EXPECT_EQ(Budget(0, 1).Slice(1e9, {.first = 1, .later = 1, .runs_s = 1e9}), 1) << "no limit";
}

TEST(Rounds, NoneIsKeptTwiceAndThoseInTurnAreNotKeptAtAll) {
  Rounds rounds;
  for (const int round : {3, 0, -2, 1, 3, 0}) rounds.Insert(round);
  EXPECT_EQ(rounds.size(), 4);
  EXPECT_EQ(rounds.kept(), 2u);
  for (const int round : {-2, 0, 1, 3}) EXPECT_TRUE(rounds.Contains(round)) << round;
  for (const int round : {-1, 2, 4}) EXPECT_FALSE(rounds.Contains(round)) << round;
  for (int round = 2; round < 1000; ++round) rounds.Insert(round);
  EXPECT_EQ(rounds.size(), 1001);
  EXPECT_EQ(rounds.kept(), 1u);  // -2
}

TEST(Guard, PredictsTimeFromTheNearestSmallerSizeOfTheSameFamily) {
  TimePredictor predictor;
  EXPECT_FALSE(predictor.FromSmaller("f", 100));
  predictor.Learn("f", 100, 1.0, 10);
  predictor.Learn("f", 1000, 12.0, 30);
  EXPECT_FALSE(predictor.FromSmaller("f", 99));
  EXPECT_FALSE(predictor.FromSmaller("g", 1000));
  EXPECT_DOUBLE_EQ(predictor.FromSmaller("f", 500)->run_s, 5.0);
  EXPECT_DOUBLE_EQ(predictor.FromSmaller("f", 4000)->run_s, 48.0);
  EXPECT_EQ(predictor.FromSmaller("f", 4000)->from_keys, 30);
  predictor.Learn("f", 1000, 10.0, 30);
  EXPECT_DOUBLE_EQ(predictor.FromSmaller("f", 4000)->run_s, 40.0) << "the last measurement";
}

TEST(Guard, SkipsWithThePredictionInTheReason) {
  Case c;
  c.kernel = "naive";
  c.problem.heads = 12;
  c.problem.keys = 32768;
  c.problem.head_dim = 64;
  c.problem.Resolve();
  const Demand demand = DemandOf(c);
  EXPECT_NEAR(demand.workspace_bytes, 12.0 * 32768 * 32768 * 4, 1e9) << "all scores of all heads";
  TimePredictor predictor;
  Objection objection = Guard(c, demand, predictor, {16e9, 1e9});
  EXPECT_EQ(objection.status, "skipped");
  EXPECT_NE(objection.reason.find("workspace 48 GiB"), std::string::npos) << objection.reason;
  predictor.Learn(Family(c), demand.work / 4, 10, 16384);
  objection = Guard(c, demand, predictor, {1e12, 20});
  EXPECT_EQ(objection.status, "skipped");
  EXPECT_NE(objection.reason.find("predicted time 40 s a run (from keys=16384)"), std::string::npos)
      << objection.reason;
  EXPECT_EQ(Guard(c, demand, predictor, {1e12, 50}).status, "");
}

TEST(Guard, FiguresAreReadable) {
  EXPECT_EQ(FormatBytes(1000), "0.977 KiB") << "three digits, never four";
  EXPECT_EQ(FormatBytes(48.0 * (1u << 30)), "48 GiB");
  EXPECT_EQ(FormatSeconds(2.5e-4), "250 us");
  EXPECT_EQ(FormatSeconds(41.2), "41.2 s");
  EXPECT_EQ(FormatSeconds(12345), "12345 s");
}

}  // namespace
}  // namespace attnbench
