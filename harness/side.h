// SPDX-License-Identifier: Apache-2.0
// One run as it is being measured: what its cases have come to, the visits, their records. A sweep
// has one; a comparison of two builds has two, visited case by case in turn.
#pragma once

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "harness/guards.h"
#include "harness/progress.h"
#include "harness/record.h"
#include "harness/run_directory.h"
#include "harness/sweep_plan.h"
#include "harness/workers.h"

namespace attnbench {

class Side {
 public:
  struct Setup {
    std::string name;     // before the labels of the progress line; empty: the only side
    std::string program;  // see Workers::Setup
    std::string build;    // of that program
    std::string session;
    int sides = 1;  // that share the budget and the count of visits
  };
  Side(const SweepPlan& plan, const RunDirectory& directory, Setup setup, Progress* progress);

  // What earlier sessions of this run have recorded.
  void TakeUp();
  bool Due(std::size_t i, int round) const;
  // Whether a round of these visits still fits the budget; first visits are made in any case.
  bool RoundFits(const std::vector<std::size_t>& todo) const;
  // Whether the budget is spent, as far as this case is concerned.
  bool Spent(std::size_t i) const;
  // False when interrupted. A repeated visit has its record already, and gets another.
  bool Visit(std::size_t i, int round, bool repeated = false);
  // Visits (case, round) during which the machine was slower than at its best by over a tenth,
  // slowest first, at most a quarter of all: beyond that the machine is what it is. Remembered only
  // if the experiment repeats them.
  std::vector<std::pair<std::size_t, int>> Slowed() const;
  // Whether a repetition of this case still fits the budget.
  bool RepetitionFits(std::size_t i) const;
  void EndRound() { workers_.Release(); }
  std::string Summary() const;  // "12 records in 0:07, 9 ok, 3 refused"
  std::size_t visited() const { return visited_; }

 private:
  using Clock = std::chrono::steady_clock;

  // Where a case stands.
  struct State {
    Planned planned;
    Demand demand;
    Rounds rounds;         // that have their record
    bool settled = false;  // refused, skipped, incorrect, failed, timeout: not visited again
    bool checked = false;
    nlohmann::json carried = nlohmann::json::object();
    double run_s = 0;  // measured, else predicted
  };
  // How fast the machine was, visit by visit.
  struct Pace {
    std::size_t i;
    int round;
    double ceiling;  // less what others had of the processor; 0: an earlier session found it slow
  };
  using Ceiling = std::pair<std::string, int>;  // dtype, threads
  Ceiling CeilingOf(const Case& c) const { return {Name(c.problem.dtype), c.threads}; }

  double Timeout() const;
  void Absorb(const nlohmann::json& record, State* state);
  Visits Left(const std::vector<std::size_t>& todo) const;
  Visits LeftInAll() const;
  nlohmann::json Identity(const State& state, int round) const;
  nlohmann::json ChildSettings(double slice_s, bool first) const;
  // Both false when interrupted.
  bool Measure(State* state, double slice_s, nlohmann::json* record);
  bool TakeMemory(const Planned& planned, nlohmann::json* record);
  void NotePace(std::size_t i, int round, nlohmann::json* record);

  const SweepPlan& plan_;
  const RunDirectory& directory_;
  const Setup setup_;
  Progress& progress_;
  Budget budget_;
  Limits limits_;
  Workers workers_;
  TimePredictor predictor_;
  std::vector<State> states_;
  std::map<std::string, std::size_t> by_hash_;
  std::map<Ceiling, double> best_ceiling_;
  std::map<std::pair<std::size_t, int>, Pace> paces_;  // the last visit's
  std::size_t repeated_ = 0, measured_ = 0;
  std::map<std::string, int> counts_;
  RecordWriter writer_;
  std::size_t visited_ = 0;
  double spent_s_ = 0;  // in visits of this side
};

}  // namespace attnbench
