// SPDX-License-Identifier: Apache-2.0
// A kernel run by a team of ranks. Rank 0 leads: it alone reads requests, makes inputs, checks and
// takes times; the others serve it. A load deals the inputs out, so that from then on each rank
// holds its shard and no more.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "harness/conform.h"
#include "harness/inputs.h"
#include "harness/ranks/mpi_ranks.h"
#include "kernels/contract/kernel.h"

namespace attnbench {

class Team {
 public:
  explicit Team(MpiRanks* ranks) : ranks_(*ranks) {}

  int size() const { return ranks_.size(); }

  // All but rank 0: until the leader ends.
  void Serve();

  // The rest is for rank 0.

  // Empty, or why this team cannot run it.
  std::string Refusal(const Kernel& kernel, const Problem& problem, const Options& options) const;
  struct Job {
    const Kernel& kernel;
    const Problem& problem;
    const Options& options;
    int threads = 1;
    unsigned provides = 0;
    bool fenced = false;  // workspaces between sentinels, poisoned, for Collect() to look at
  };
  // Deals the inputs out and makes workspaces. Of each rank: {"tensor_bytes", "workspace_bytes"}.
  std::vector<nlohmann::json> Load(const Job& job, const Inputs& whole);
  // One run by all; returns when the last is done.
  void Run();
  // The whole output. A rank that wrote beyond its workspace ends all (Abort).
  void Collect(const Output& whole);
  // Drops the shards.
  void Unload();
  // Of each rank: a run's mean parts (PartsOf), since the load or the last call.
  std::vector<nlohmann::json> Parts();
  // Of each rank: {"gflops"}, all at the same time.
  std::vector<nlohmann::json> ProbeFlops(DType dtype, int threads);
  // Of each rank: {"peak_rss_bytes"} of a run whose workspace is made anew.
  std::vector<nlohmann::json> Memory();
  // Of each rank: {"cpus"}.
  std::vector<nlohmann::json> Pin(int threads);
  void End();

  // The kernel as one that a single process runs: takes whole inputs, gives whole outputs. For the
  // comparison with the oracle. Lives no longer than the team and the kernel.
  Kernel Gathered(const Kernel& kernel);

 private:
  // What this rank holds between a load and the next.
  struct Held {
    const Kernel* kernel = nullptr;
    Problem problem;
    Options options;
    int threads = 1;
    Shard shard;
    Buffer q, k, v;
    std::vector<Index> key_lengths;
    Inputs in;
    OwnedOutput out;
    std::size_t workspace_bytes = 0;
    Buffer plain;  // one of the two is the workspace
    std::unique_ptr<FencedWorkspace> fenced;

    std::byte* workspace() const { return fenced ? fenced->data() : plain.data(); }
  };

  std::vector<nlohmann::json> Call(const nlohmann::json& command);
  nlohmann::json Do(const nlohmann::json& command);  // on every rank
  nlohmann::json TakeShard(const nlohmann::json& command);
  nlohmann::json TakeParts();
  nlohmann::json RunForMemory();
  void DealOut(const ConstTensor& whole, Rows Shard::* rows, Index heads, Index columns,
               Buffer* buffer, ConstTensor* mine);
  void GiveOutput();
  void RunHere();

  MpiRanks& ranks_;
  Held held_;
  const Inputs* whole_in_ = nullptr;   // of rank 0, during a load
  const Output* whole_out_ = nullptr;  // of rank 0, during a collection
};

// A rank that fails takes all others with it: its words are the sweep's reason.
[[noreturn]] void Abort(int rank, const std::string& reason);

}  // namespace attnbench
