// SPDX-License-Identifier: Apache-2.0
#include "harness/sweep.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <set>

#include "harness/guards.h"
#include "harness/machine.h"
#include "harness/process.h"
#include "harness/progress.h"
#include "harness/record.h"
#include "harness/run_directory.h"
#include "harness/sweep_plan.h"
#include "harness/user_error.h"
#include "harness/workers.h"

namespace attnbench {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Measured once, in the checking round, and repeated in every record of the case.
constexpr const char* kCarried[] = {"error",        "error_frobenius", "tolerance",
                                    "rows_checked", "peak_rss_bytes",  "dense"};

// Where a case stands.
struct State {
  Planned planned;
  Demand demand;
  std::set<int> rounds;  // that have their record
  bool settled = false;  // refused, skipped, incorrect, failed, timeout: not visited again
  bool checked = false;
  json carried = json::object();
  double run_s = 0;  // measured, else predicted
};

class Sweep {
 public:
  Sweep(const SweepPlan& plan, const RunDirectory& directory)
      : plan_(plan),
        directory_(directory),
        budget_(plan.settings.budget_s, plan.settings.max_seconds_per_case),
        limits_(MakeLimits(plan.settings.memory_budget_gib, RunCap(plan.settings))),
        workers_({plan.plugins, CpusAllowed(), MemoryOfChild(limits_),
                  plan.settings.isolation == "problem"}),
        session_(UtcNowCompact() + "-" + std::to_string(getpid())),
        build_(BuildId()) {
    for (const Planned& planned : plan.cases) {
      State state;
      state.planned = planned;
      if (Refusal(planned.c).status.empty()) state.demand = DemandOf(planned.c);
      state.run_s = predictor_.RunSeconds(planned.family, planned.work, planned.c.threads);
      states_.push_back(std::move(state));
      by_hash_[planned.hash] = states_.size() - 1;
    }
  }

  int Run() {
    TakeUp();
    RecordWriter writer(directory_.File("records.jsonl"));
    writer_ = &writer;
    int whole_rounds = 0;
    for (int round = 0; round < plan_.settings.rounds; ++round) {
      std::vector<std::size_t> todo;
      for (const std::size_t i : RoundOrder(plan_.cases, round, plan_.settings.seed,
                                            plan_.settings.isolation == "problem"))
        if (Due(states_[i], round)) todo.push_back(i);
      if (!budget_.Fits(Since(begin_), Left(todo)) && Left(todo).first == 0) break;
      bool whole = true;
      for (const std::size_t i : todo) {
        // Later visits may be dropped when the budget is spent; the first ones never.
        State& state = states_[i];
        if (state.checked && budget_.limited() && Since(begin_) > budget_.budget_s())
          whole = false;
        else if (!Visit(state, round))
          return Interrupt();
      }
      workers_.Release();
      whole_rounds += whole;
    }
    Summarise(whole_rounds);
    return 0;
  }

 private:
  // A single run must leave room for the others within the budget.
  static double RunCap(const SweepSettings& s) {
    return s.budget_s > 0 ? std::min(s.run_cap_s, s.budget_s / 20) : s.run_cap_s;
  }
  double Timeout() const {
    const SweepSettings& s = plan_.settings;
    return s.budget_s > 0 ? std::min(s.timeout_s, std::max(20.0, s.budget_s / 4)) : s.timeout_s;
  }
  // The check keeps a second output and the oracle's rows, and every process has its libraries.
  static std::size_t MemoryOfChild(const Limits& limits) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)limits;
    return 0;  // the shadow memory counts as data
#else
    return static_cast<std::size_t>(1.1 * limits.memory_bytes) + (std::size_t{512} << 20);
#endif
  }

  static bool Due(const State& s, int round) { return !s.settled && !s.rounds.count(round); }

  // What earlier sessions of this run have recorded.
  void TakeUp() {
    std::string message;
    const RecordsRead read = RepairRecords(directory_.File("records.jsonl"), &message);
    if (!message.empty()) progress_.Note(message);
    if (!read.damaged_lines.empty())
      progress_.Note(directory_.File("records.jsonl") + ":" +
                     std::to_string(read.damaged_lines.front()) +
                     ": is no record; its case is measured again");
    std::size_t taken = 0, stale = 0;
    for (const json& record : read.records) {
      const auto it = by_hash_.find(record.value("case", ""));
      if (it == by_hash_.end()) continue;
      if (record.value("build", "") != build_) {
        ++stale;
        continue;
      }
      ++taken;
      State& state = states_[it->second];
      state.rounds.insert(record.value("round", 0));
      Absorb(record, &state);
    }
    if (taken > 0) progress_.Note("resuming: " + std::to_string(taken) + " records stand");
    if (stale > 0)
      progress_.Note("resuming: " + std::to_string(stale) +
                     " records are of another build of attnbench; their cases are measured again");
  }

  // Updates what is known of a case from one of its records.
  void Absorb(const json& record, State* state) {
    if (record.value("status", "") != "ok") {
      state->settled = true;
      return;
    }
    state->checked = true;
    for (const char* field : kCarried)
      if (record.contains(field)) state->carried[field] = record[field];
    if (!record.contains("median_ns") || !record["median_ns"].is_number()) return;
    state->run_s = record["median_ns"].get<double>() * 1e-9;
    predictor_.Learn(state->planned.family, state->planned.work, state->run_s,
                     state->planned.c.problem.keys);
    for (State& other : states_)
      if (!other.checked && other.planned.family == state->planned.family)
        other.run_s = predictor_.RunSeconds(other.planned.family, other.planned.work,
                                            other.planned.c.threads);
  }

  Visits Left(const std::vector<std::size_t>& todo) const {
    Visits left;
    for (const std::size_t i : todo) {
      ++(states_[i].checked ? left.later : left.first);
      left.runs_s +=
          states_[i].run_s * (states_[i].checked ? Budget::kRunsLater : Budget::kRunsFirst);
    }
    return left;
  }
  Visits LeftInAll() const {
    Visits left;
    for (const State& state : states_) {
      if (state.settled) continue;
      const int later =
          plan_.settings.rounds - static_cast<int>(state.rounds.size()) - !state.checked;
      left.later += static_cast<std::size_t>(std::max(0, later));
      left.first += !state.checked;
      left.runs_s += state.run_s * (std::max(0, later) * Budget::kRunsLater +
                                    !state.checked * Budget::kRunsFirst);
    }
    return left;
  }

  // False when interrupted.
  bool Visit(State& state, int round) {
    const Planned& planned = state.planned;
    const Visits left = LeftInAll();
    const double elapsed = Since(begin_);
    const double slice = budget_.Slice(elapsed, left);
    progress_.Begin(visited_ + 1, visited_ + left.first + left.later, planned.c,
                    budget_.Rest(elapsed, left));
    const auto begin = Clock::now();
    json record = Identity(state, round);
    const bool first = !state.checked;
    Objection objection;
    if (first) {
      objection = Refusal(planned.c);
      if (objection.status.empty()) objection = Guard(planned.c, state.demand, predictor_, limits_);
    }
    if (!objection.status.empty()) {
      record["status"] = objection.status;
      record["reason"] = objection.reason;
    } else {
      const json measured = workers_.Measure(planned, ChildSettings(slice, first), Timeout());
      if (measured.is_null()) return false;
      record.update(measured);
      if (record["status"] == "ok") {
        if (first && !TakeMemory(planned, &record)) return false;
        for (const auto& [field, value] : state.carried.items())
          if (!record.contains(field) || record[field].is_null()) record[field] = value;
        FlagSlowMachine(planned.c, &record);
      }
    }
    const double wall_s = Since(begin);
    record["visit_s"] = wall_s;
    writer_->Append(record);
    ++visited_;
    ++counts_[record["status"]];
    state.rounds.insert(round);
    Absorb(record, &state);
    if (state.checked) budget_.Learn(first, wall_s, state.run_s, slice);
    progress_.End(record);
    return !Interrupted();
  }

  json Identity(const State& state, int round) const {
    const Case& c = state.planned.c;
    json j = ToJson(c);
    json problem = j["problem"];
    if (problem["mask"].contains("tiles"))  // may be large; the case's hash holds it
      problem["mask"]["tiles"] = HashText(problem["mask"]["tiles"].dump());
    const Kernel* kernel = FindKernel(c.kernel);
    return {{"schema", kRecordSchema},
            {"run", plan_.run},
            {"session", session_},
            {"build", build_},
            {"started", UtcNow()},
            {"experiment", plan_.experiment},
            {"case", state.planned.hash},
            {"round", round},
            {"kernel", c.kernel},
            {"kind", c.kind},
            {"host", kernel ? std::string(kernel->host) : "python"},
            {"options", j["options"]},
            {c.kind == "layer" ? "layer_problem" : "problem", problem},
            {"threads", c.threads},
            {"cpus", ChooseCpus(c.threads, CpusAllowed())},
            {"ranks", c.ranks},
            {"input", j["input"]},
            {"seed", c.seed},
            {"cache", c.cache},
            {"predicted_bytes", state.demand.bytes()}};
  }

  json ChildSettings(double slice_s, bool first) const {
    return {{"check", first},
            {"target_interval", plan_.settings.target_interval},
            {"max_seconds", slice_s},
            {"warmup_seconds", std::min(0.05, slice_s / 2)},
            {"check_rows", plan_.settings.check_rows}};
  }

  bool TakeMemory(const Planned& planned, json* record) {
    const json memory = workers_.Memory(planned, Timeout());
    if (memory.is_null()) return false;
    (*record)["peak_rss_bytes"] = memory.value("peak_rss_bytes", json(nullptr));
    if (memory["status"] != "ok") {
      (*record)["flags"].push_back("no_memory_pass");
      progress_.Note(Label(planned.c) + ": memory pass: " + memory.value("reason", ""));
    }
    return true;
  }

  // The ceiling is probed beside every case: one far below the session's best says that the machine
  // was slowed down then.
  void FlagSlowMachine(const Case& c, json* record) {
    if (!record->contains("ceiling_gflops") || !(*record)["ceiling_gflops"].is_number()) return;
    const double ceiling = (*record)["ceiling_gflops"];
    double& best = best_ceiling_[{Name(c.problem.dtype), c.threads}];
    best = std::max(best, ceiling);
    if (ceiling < 0.9 * best) (*record)["flags"].push_back("slowed");
  }

  int Interrupt() {
    workers_.Release();
    progress_.Note("interrupted: " + std::to_string(visited_) +
                   " records of this session are kept; " + "attnbench sweep --resume " +
                   directory_.path() + " goes on");
    return 130;
  }

  void Summarise(int whole_rounds) {
    std::string text = std::to_string(visited_) + " records in " + FormatClock(Since(begin_)) +
                       ", " + std::to_string(whole_rounds) + " of " +
                       std::to_string(plan_.settings.rounds) + " rounds";
    for (const auto& [status, count] : counts_) text += ", " + std::to_string(count) + " " + status;
    progress_.Note(text);
  }

  const SweepPlan& plan_;
  const RunDirectory& directory_;
  Budget budget_;
  Limits limits_;
  Workers workers_;
  Progress progress_;
  TimePredictor predictor_;
  std::vector<State> states_;
  std::map<std::string, std::size_t> by_hash_;
  std::map<std::pair<std::string, int>, double> best_ceiling_;
  std::map<std::string, int> counts_;
  RecordWriter* writer_ = nullptr;
  std::size_t visited_ = 0;
  const Clock::time_point begin_ = Clock::now();
  const std::string session_, build_;
};

}  // namespace

int RunSweep(const SweepRequest& request) {
  SweepPlan plan = request.resume.empty() ? MakePlan(request) : SweepPlan{};
  if (request.dry_run) {
    PrintPlan(plan);
    return 0;
  }
  CatchInterrupts();  // from the first write on
  RunDirectory directory =
      request.resume.empty() ? CreateRun(request, &plan) : ResumeRun(request, &plan);
  int status;
  {
    Sweep sweep(plan, directory);
    status = sweep.Run();
  }
  std::printf("run: %s\n", directory.path().c_str());
  return status;
}

}  // namespace attnbench
