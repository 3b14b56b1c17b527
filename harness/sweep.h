// SPDX-License-Identifier: Apache-2.0
// A sweep: the cases of an experiment, each in its own child process, in shuffled rounds, checked
// before timed, every outcome a record. The parent does no arithmetic beyond predictions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "harness/experiment.h"

namespace attnbench {

struct SweepRequest {
  std::string experiment;  // path
  Overrides overrides;
  std::string output;  // run directory; empty: the default
  std::string resume;  // a run directory to continue; excludes all of the above
  bool dry_run = false;
  std::optional<double> budget_s;  // replaces the experiment's, as does:
  std::optional<int> rounds;
  std::vector<std::string> plugins;
  int shard = 1, shards = 1;
  // The attnbench-harness of another build: every visit is made by both, in turn, into the run
  // directories <output>/old (the other) and <output>/new (this one), of one session.
  std::string against;
  int argc = 0;  // for environment.json
  char** argv = nullptr;
};

// Returns the exit status: 0 when every case has its record, 130 when interrupted. Throws UserError
// (bad input, nothing written) or std::runtime_error (the disk: what was measured is kept).
int RunSweep(const SweepRequest& request);

}  // namespace attnbench
