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
  std::optional<double> budget_s;  // replaces the experiment's
  std::vector<std::string> plugins;
  int shard = 1, shards = 1;
  int argc = 0;  // for environment.json
  char** argv = nullptr;
};

// Returns the exit status: 0 when every case has its record, 130 when interrupted. Throws UserError
// (bad input, nothing written) or std::runtime_error (the disk: what was measured is kept).
int RunSweep(const SweepRequest& request);

}  // namespace attnbench
