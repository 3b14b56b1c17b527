// SPDX-License-Identifier: Apache-2.0
// Ranks that reach each other by MPI: the processes that one mpirun (or srun) has started.
#pragma once

#include <mpi.h>

#include <string>
#include <vector>

#include "kernels/ranks.h"

namespace attnbench {

// One a process, from before the first message to after the last.
class MpiSession {
 public:
  MpiSession(int* argc, char*** argv) { MPI_Init(argc, argv); }
  ~MpiSession() { MPI_Finalize(); }
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
};

// All ranks of the session. The collective calls below are made by all of them alike.
class MpiRanks : public Ranks {
 public:
  MpiRanks();

  void Barrier();
  void Broadcast(std::string* text);                         // rank 0's
  std::vector<std::string> Gather(const std::string& text);  // on rank 0, in the order of ranks
  int Broadcast(int value);                                  // rank 0's
  int PlaceOnNode() const;                                   // among the ranks of this node
  static std::string Library();                              // "Open MPI v4.1.4"

 protected:
  void BeginSend(const void* data, std::size_t bytes, int to) override;
  void BeginReceive(void* data, std::size_t bytes, int from) override;
  void Test() override;
  void WaitAll() override;
  void ExchangeAll(const void* send, const std::size_t* send_bytes, void* receive,
                   const std::size_t* receive_bytes) override;

 private:
  std::vector<MPI_Request> pending_;
  std::vector<int> counts_;  // of ExchangeAll: four numbers a rank
};

}  // namespace attnbench
