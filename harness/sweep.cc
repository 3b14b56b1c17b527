// SPDX-License-Identifier: Apache-2.0
#include "harness/sweep.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <memory>

#include "harness/machine.h"
#include "harness/process.h"
#include "harness/record.h"
#include "harness/side.h"
#include "harness/sweep_plan.h"
#include "harness/user_error.h"

namespace attnbench {
namespace {

// Its sides, round by round.
class Sweep {
 public:
  Sweep(const SweepPlan& plan, std::string resume_with)
      : plan_(plan),
        resume_with_(std::move(resume_with)),
        session_(UtcNowCompact() + "-" + std::to_string(getpid())) {}

  void Add(const SideSpec& spec, const RunDirectory& directory, int sides) {
    sides_.push_back(std::make_unique<Side>(
        plan_, directory,
        Side::Setup{sides > 1 ? spec.name + ": " : "", spec.program, spec.build, session_, sides},
        &progress_));
  }

  int Run() {
    for (const auto& side : sides_) side->TakeUp();
    int whole_rounds = 0;
    for (int round = 0; round < plan_.settings.rounds; ++round) {
      const std::vector<std::size_t> todo = Due(round);
      if (!todo.empty() && std::none_of(sides_.begin(), sides_.end(),
                                        [&](const auto& side) { return side->RoundFits(todo); }))
        break;
      bool whole = true;
      for (const std::size_t i : todo) {
        // Later visits may be dropped when the budget is spent; the first ones never.
        if (std::any_of(sides_.begin(), sides_.end(),
                        [&](const auto& side) { return side->Spent(i); }))
          whole = false;
        else if (!Visit(i, round, false))
          return Interrupt();
      }
      for (const auto& side : sides_) side->EndRound();
      whole_rounds += whole;
    }
    if (plan_.settings.repeat_slowed && !Repeat()) return Interrupt();
    progress_.Note(Summary() + ", " + std::to_string(whole_rounds) + " of " +
                   std::to_string(plan_.settings.rounds) + " rounds");
    return 0;
  }

 private:
  std::vector<std::size_t> Due(int round) const {
    std::vector<std::size_t> due;
    for (const std::size_t i :
         RoundOrder(plan_.cases, round, plan_.settings.seed, plan_.settings.isolation == "problem"))
      if (std::any_of(sides_.begin(), sides_.end(),
                      [&](const auto& side) { return side->Due(i, round); }))
        due.push_back(i);
    return due;
  }

  // By every side, each one first in every other round. False when interrupted.
  bool Visit(std::size_t i, int round, bool repeated) {
    const std::size_t n = sides_.size(), first = (i + static_cast<std::size_t>(round)) % n;
    for (std::size_t s = 0; s < n; ++s) {
      Side& side = *sides_[(first + s) % n];
      if ((repeated || side.Due(i, round)) && !side.Visit(i, round, repeated)) return false;
    }
    return true;
  }

  // What the machine was slow for, once more; its first records stay, flagged.
  bool Repeat() {
    std::vector<std::pair<std::size_t, int>> slowed;
    for (const auto& side : sides_)
      for (const auto& visit : side->Slowed())
        if (std::find(slowed.begin(), slowed.end(), visit) == slowed.end()) slowed.push_back(visit);
    if (slowed.empty()) return true;
    progress_.Note("the machine was slow for " + std::to_string(slowed.size()) +
                   " visits; they are repeated as far as the budget allows");
    for (const auto& [i, round] : slowed) {
      if (!std::all_of(sides_.begin(), sides_.end(),
                       [i = i](const auto& side) { return side->RepetitionFits(i); }))
        continue;
      if (!Visit(i, round, true)) return false;
    }
    for (const auto& side : sides_) side->EndRound();
    return true;
  }

  int Interrupt() {
    std::size_t visited = 0;
    for (const auto& side : sides_) side->EndRound(), visited += side->visited();
    progress_.Note("interrupted: " + std::to_string(visited) + " records of this session are kept" +
                   resume_with_);
    return 130;
  }

  std::string Summary() const {
    if (sides_.size() == 1) return sides_[0]->Summary();
    return "old: " + sides_[0]->Summary() + "; new: " + sides_[1]->Summary();
  }

  const SweepPlan& plan_;
  const std::string resume_with_, session_;
  Progress progress_;
  std::vector<std::unique_ptr<Side>> sides_;
};

int SweepOne(const SweepRequest& request, SweepPlan* plan) {
  const SideSpec own = {.name = "new", .build = BuildId()};
  const RunDirectory directory =
      request.resume.empty() ? CreateRun(request, own, plan) : ResumeRun(request, plan);
  Sweep sweep(*plan, "; attnbench sweep --resume " + directory.path() + " goes on");
  sweep.Add(own, directory, 1);
  const int status = sweep.Run();
  std::printf("run: %s\n", directory.path().c_str());
  return status;
}

int SweepAgainst(const SweepRequest& request, SweepPlan* plan) {
  const SideSpec specs[] = {{"old", request.against, BuildOfProgram(request.against)},
                            {"new", "", BuildId()}};
  for (const Planned& planned : plan->cases)
    if (!FindKernel(planned.c.kernel))
      throw UserError("--against: kernel '" + planned.c.kernel +
                      "' is hosted in Python and no part of a build");
  Sweep sweep(*plan, "");
  std::deque<RunDirectory> directories;
  for (const SideSpec& spec : specs) {
    SweepRequest side = request;
    side.output = request.output + "/" + spec.name;
    directories.push_back(CreateRun(side, spec, plan));
    sweep.Add(spec, directories.back(), 2);
  }
  const int status = sweep.Run();
  for (const RunDirectory& directory : directories)
    std::printf("side: %s\n", directory.path().c_str());
  return status;
}

}  // namespace

int RunSweep(const SweepRequest& request) {
  CatchInterrupts();  // from the first child on
  SweepPlan plan = request.resume.empty() ? MakePlan(request) : SweepPlan{};
  if (request.dry_run) {
    PrintPlan(plan);
    return 0;
  }
  return request.against.empty() ? SweepOne(request, &plan) : SweepAgainst(request, &plan);
}

}  // namespace attnbench
