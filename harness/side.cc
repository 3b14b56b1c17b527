// SPDX-License-Identifier: Apache-2.0
#include "harness/side.h"

#include <algorithm>

#include "harness/machine.h"
#include "harness/plugin_claims.h"
#include "harness/process.h"

namespace attnbench {
namespace {

using nlohmann::json;

constexpr const char* kRankPeaks = "rank_peak_rss_bytes";
// Measured once, in the checking round, and repeated in every record of the case.
constexpr const char* kCarried[] = {
    "error",        "error_frobenius", "tolerance",       "rows_checked", "peak_rss_bytes",
    "tensor_bytes", "counters",        "counters_reason", "dense",        kRankPeaks};
constexpr double kSlowed = 0.9;         // of the session's best ceiling
constexpr double kRoundsShare = 0.95;   // of the budget; the rest is for repetitions
constexpr double kMostRepeated = 0.25;  // of the visits

// A single run must leave room for the others within the budget.
double RunCap(const SweepSettings& s) {
  return s.budget_s > 0 ? std::min(s.run_cap_s, s.budget_s / 20) : s.run_cap_s;
}

// The check keeps a second output and the oracle's rows, and every process has its libraries.
std::size_t MemoryOfChild(const Limits& limits) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  (void)limits;
  return 0;  // the shadow memory counts as data
#else
  return static_cast<std::size_t>(1.1 * limits.memory_bytes) + (std::size_t{512} << 20);
#endif
}

}  // namespace

Side::Side(const SweepPlan& plan, const RunDirectory& directory, Setup setup, Progress* progress)
    : plan_(plan),
      directory_(directory),
      setup_(std::move(setup)),
      progress_(*progress),
      budget_(kRoundsShare * plan.settings.budget_s / setup_.sides,
              plan.settings.max_seconds_per_case),
      limits_(MakeLimits(plan.settings.memory_budget_gib, RunCap(plan.settings))),
      workers_({setup_.program, plan.plugins, CpusAllowed(), MemoryOfChild(limits_),
                plan.settings.isolation == "problem"}),
      writer_(directory.File("records.jsonl")) {
  for (const Planned& planned : plan.cases) {
    State state;
    state.planned = planned;
    if (Refusal(planned.c).status.empty()) state.demand = DemandOf(planned.c);
    state.run_s = predictor_.RunSeconds(planned.family, planned.work, planned.c.threads);
    states_.push_back(std::move(state));
    by_hash_[planned.hash] = states_.size() - 1;
  }
}

double Side::Timeout() const {
  const SweepSettings& s = plan_.settings;
  return s.budget_s > 0 ? std::min(s.timeout_s, std::max(20.0, s.budget_s / 4)) : s.timeout_s;
}

void Side::TakeUp() {
  std::string message;
  const std::string file = directory_.File("records.jsonl");
  const RecordsRead read = RepairRecords(file, &message);
  if (!message.empty()) progress_.Note(message);
  if (!read.damaged_lines.empty())
    progress_.Note(file + ":" + std::to_string(read.damaged_lines.front()) +
                   ": is no record; its case is measured again");
  std::size_t taken = 0, stale = 0;
  for (const json& record : read.records) {
    const auto it = by_hash_.find(TextOf(record, "case"));
    if (it == by_hash_.end() || !record.contains("round") || !record["round"].is_number_integer())
      continue;
    State& state = states_[it->second];
    if (TextOf(record, "build") != setup_.build + PluginTag(state.planned.c.kernel)) {
      ++stale;
      continue;
    }
    ++taken;
    const int round = record["round"];
    state.rounds.Insert(round);
    Absorb(record, &state);
    const std::vector<std::string> flags = FlagsOf(record);
    const auto flagged = [&](const char* flag) {
      return std::find(flags.begin(), flags.end(), flag) != flags.end();
    };
    measured_ += TextOf(record, "status") == "ok" && !flagged("repeated");
    repeated_ += flagged("repeated");
    if (flagged("slowed") && !flagged("repeated"))
      paces_[{it->second, round}] = {it->second, round, 0};
    else
      paces_.erase({it->second, round});
  }
  if (taken > 0) progress_.Note("resuming: " + std::to_string(taken) + " records stand");
  if (stale > 0)
    progress_.Note("resuming: " + std::to_string(stale) +
                   " records are of another build of attnbench; their cases are measured again");
}

// Updates what is known of a case from one of its records.
void Side::Absorb(const json& record, State* state) {
  if (TextOf(record, "status") != "ok") {
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
      other.run_s =
          predictor_.RunSeconds(other.planned.family, other.planned.work, other.planned.c.threads);
}

bool Side::Due(std::size_t i, int round) const {
  return !states_[i].settled && !states_[i].rounds.Contains(round);
}

bool Side::RoundFits(const std::vector<std::size_t>& todo) const {
  const Visits left = Left(todo);
  return left.first > 0 || budget_.Fits(spent_s_, left);
}

bool Side::Spent(std::size_t i) const {
  return states_[i].checked && budget_.limited() && spent_s_ > budget_.budget_s();
}

bool Side::RepetitionFits(std::size_t i) const {
  return !budget_.limited() ||
         spent_s_ + budget_.Slice(0, {.first = 0, .later = 1, .runs_s = 0}) + states_[i].run_s <
             budget_.budget_s() / kRoundsShare;
}

Visits Side::Left(const std::vector<std::size_t>& todo) const {
  Visits left;
  for (const std::size_t i : todo) {
    ++(states_[i].checked ? left.later : left.first);
    left.runs_s +=
        states_[i].run_s * (states_[i].checked ? Budget::kRunsLater : Budget::kRunsFirst);
  }
  return left;
}

Visits Side::LeftInAll() const {
  Visits left;
  for (const State& state : states_) {
    if (state.settled) continue;
    const int later = plan_.settings.rounds - state.rounds.size() - !state.checked;
    left.later += static_cast<std::size_t>(std::max(0, later));
    left.first += !state.checked;
    left.runs_s += state.run_s *
                   (std::max(0, later) * Budget::kRunsLater + !state.checked * Budget::kRunsFirst);
  }
  return left;
}

bool Side::Visit(std::size_t i, int round, bool repeated) {
  State& state = states_[i];
  const Visits left = LeftInAll();
  const double slice = budget_.Slice(spent_s_, left);
  const auto sides = static_cast<std::size_t>(setup_.sides);
  progress_.Begin(visited_ * sides + 1, (visited_ + left.first + left.later + repeated) * sides,
                  setup_.name + Label(state.planned.c),
                  budget_.Rest(spent_s_, left) * setup_.sides);
  const auto begin = Clock::now();
  json record = Identity(state, round);
  const bool first = !state.checked;
  Objection objection;
  if (first) {
    objection = Refusal(state.planned.c);
    if (objection.status.empty())
      objection = Guard(state.planned.c, state.demand, predictor_, limits_);
  }
  if (!objection.status.empty()) {
    record["status"] = objection.status;
    record["reason"] = objection.reason;
  } else if (!Measure(&state, slice, &record)) {
    return false;
  }
  if (record["status"] == "ok") {
    if (repeated) record["flags"].push_back("repeated");
    NotePace(i, round, &record);
  }
  const double wall_s = std::chrono::duration<double>(Clock::now() - begin).count();
  record["visit_s"] = wall_s;
  writer_.Append(record);
  spent_s_ += wall_s;
  ++visited_;
  ++(repeated ? repeated_ : measured_);
  ++counts_[record["status"]];
  state.rounds.Insert(round);
  Absorb(record, &state);
  if (state.checked) budget_.Learn(first, wall_s, state.run_s, slice);
  progress_.End(record);
  return !Interrupted();
}

bool Side::Measure(State* state, double slice_s, json* record) {
  const bool first = !state->checked;
  const json measured = workers_.Measure(state->planned, ChildSettings(slice_s, first), Timeout());
  if (measured.is_null()) return false;
  record->update(measured);
  if ((*record)["status"] != "ok") return true;
  if (first && !TakeMemory(state->planned, record)) return false;
  for (const auto& [field, value] : state->carried.items())
    if (!record->contains(field) || (*record)[field].is_null()) (*record)[field] = value;
  return true;
}

bool Side::TakeMemory(const Planned& planned, json* record) {
  const json memory = workers_.Memory(planned, Timeout());
  if (memory.is_null()) return false;
  for (const char* field : {"peak_rss_bytes", "tensor_bytes"})
    (*record)[field] = memory.value(field, json(nullptr));
  if (memory.contains(kRankPeaks)) (*record)[kRankPeaks] = memory[kRankPeaks];
  for (const std::string& flag : FlagsOf(memory)) (*record)["flags"].push_back(flag);
  if (memory["status"] != "ok") {
    (*record)["flags"].push_back("no_memory_pass");
    progress_.Note(Label(planned.c) + ": memory pass: " + TextOf(memory, "reason"));
  }
  return true;
}

// The machine was slowed down when the ceiling probed beside the case is far below the session's
// best, and when the processor served others meanwhile: the probes take the best of a few
// milliseconds, which fit between two turns of another process, and see nothing of that (a case of
// 3.6 ms took 32 beside eight compilers, its ceilings unmoved).
void Side::NotePace(std::size_t i, int round, json* record) {
  if (!record->contains("ceiling_gflops") || !(*record)["ceiling_gflops"].is_number()) return;
  double ceiling = (*record)["ceiling_gflops"];
  double& best = best_ceiling_[CeilingOf(states_[i].planned.c)];
  best = std::max(best, ceiling);
  if (const auto waited = record->find("waited_fraction");
      waited != record->end() && waited->is_number())
    ceiling *= 1 - std::clamp(waited->get<double>(), 0.0, 1.0);
  if (ceiling < kSlowed * best) (*record)["flags"].push_back("slowed");
  if (plan_.settings.repeat_slowed) paces_[{i, round}] = {i, round, ceiling};
}

std::vector<std::pair<std::size_t, int>> Side::Slowed() const {
  std::vector<std::pair<double, std::pair<std::size_t, int>>> found;  // by pace
  for (const auto& [visit, pace] : paces_) {
    const auto best = best_ceiling_.find(CeilingOf(states_[pace.i].planned.c));
    const double relative =
        pace.ceiling == 0 || best == best_ceiling_.end() ? 0 : pace.ceiling / best->second;
    if (relative < kSlowed && !states_[pace.i].settled) found.push_back({relative, visit});
  }
  std::sort(found.begin(), found.end());
  const auto most = static_cast<std::size_t>(kMostRepeated * static_cast<double>(measured_)) + 1;
  found.resize(std::min(found.size(), most - std::min(most, repeated_)));
  std::vector<std::pair<std::size_t, int>> visits;
  for (const auto& [relative, visit] : found) visits.push_back(visit);
  return visits;
}

json Side::Identity(const State& state, int round) const {
  const Case& c = state.planned.c;
  json j = ToJson(c);
  json problem = j["problem"];
  if (problem["mask"].contains("tiles"))  // may be large; the case's hash holds it
    problem["mask"]["tiles"] = HashText(problem["mask"]["tiles"].dump());
  const Kernel* kernel = FindKernel(c.kernel);
  return {{"schema", kRecordSchema},
          {"run", plan_.run},
          {"session", setup_.session},
          {"build", setup_.build + PluginTag(c.kernel)},
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

json Side::ChildSettings(double slice_s, bool first) const {
  return {{"check", first},
          {"target_interval", plan_.settings.target_interval},
          {"plateau", plan_.settings.plateau},
          {"max_seconds", slice_s},
          {"warmup_seconds", std::min(0.05, slice_s / 2)},
          {"check_rows", plan_.settings.check_rows}};
}

std::string Side::Summary() const {
  std::string text = std::to_string(visited_) + " records in " + FormatClock(spent_s_);
  for (const auto& [status, count] : counts_) text += ", " + std::to_string(count) + " " + status;
  return text;
}

}  // namespace attnbench
