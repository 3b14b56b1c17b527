// SPDX-License-Identifier: Apache-2.0
// How several ranks of a case are started: `attnbench-rank`, by mpirun, or by srun within a Slurm
// allocation. Only a process that is no rank itself may start ranks.
#pragma once

#include <string>
#include <vector>

namespace attnbench {

// Empty, or why no kernel can be shared among ranks here: "built without MPI: ...".
std::string NoRanks();

// The command up to attnbench-rank's own arguments.
std::vector<std::string> RankCommand(int ranks);
// Variables that it needs, "NAME=VALUE", where the user has not set them. `cpus`: processors that
// this machine has for the ranks' threads.
std::vector<std::string> RankEnvironment(int ranks, int threads, int cpus);

}  // namespace attnbench
