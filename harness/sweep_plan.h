// SPDX-License-Identifier: Apache-2.0
// From a request to what a sweep will do: cases loaded, checked, sharded; the run directory made or
// taken up again.
#pragma once

#include <string>
#include <vector>

#include "harness/run_directory.h"
#include "harness/schedule.h"
#include "harness/sweep.h"

namespace attnbench {

struct SweepPlan {
  std::string run, experiment, title, text;
  SweepSettings settings;
  std::vector<std::string> plugins;
  std::vector<Planned> cases;
};

// Throws UserError.
SweepPlan MakePlan(const SweepRequest& request);
// --dry-run: a line a case with what it is predicted to take.
void PrintPlan(const SweepPlan& plan);
// Whose children measure into a run directory.
struct SideSpec {
  std::string name = {};     // "old", "new"
  std::string program = {};  // empty: this binary
  std::string build = {};    // of the program
};
// Build id of another attnbench-harness. Throws UserError.
std::string BuildOfProgram(const std::string& program);
// Makes the folder and everything in it but the records; completes plan->run.
RunDirectory CreateRun(const SweepRequest& request, const SideSpec& side, SweepPlan* plan);
RunDirectory ResumeRun(const SweepRequest& request, SweepPlan* plan);

}  // namespace attnbench
