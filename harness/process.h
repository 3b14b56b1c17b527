// SPDX-License-Identifier: Apache-2.0
// A measuring child: spawned (never forked: OpenMP may have started), pinned, limited, asked one
// request a line and killed when it does not answer. Whatever becomes of it becomes a reason.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <vector>

namespace attnbench {

struct ChildSpec {
  std::vector<std::string> argv = {};
  // "NAME=VALUE": replaces the variable in the parent's environment.
  std::vector<std::string> environment = {};
  std::vector<int> cpus = {};    // affinity mask; empty: the parent's
  std::size_t memory_bytes = 0;  // RLIMIT_DATA; 0: the parent's
  // On SIGTERM it cleans up after itself and its own children: a launcher of ranks.
  bool cleans_up = false;
};

enum class Ending { kReply, kTimeout, kDied, kInterrupted };

struct Answer {
  Ending ending = Ending::kReply;
  std::string line;    // kReply: the child's line
  std::string reason;  // else what happened, as "killed by SIGSEGV"
};

class Child {
 public:
  explicit Child(const ChildSpec& spec);  // throws std::runtime_error when it cannot be started
  ~Child();                               // ends it: end of file, then SIGKILL
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // Sends the line and waits for one. After anything but kReply the child is gone.
  Answer Ask(const std::string& request, double timeout_s);
  bool alive() const { return pid_ > 0; }
  int answered() const { return answered_; }

 private:
  std::string Reap(bool kill_first);  // how it ended
  std::string LastWords() const;      // the last line that it wrote to standard error

  pid_t pid_ = -1;
  int in_ = -1, out_ = -1, err_ = -1;
  int answered_ = 0;
  long oom_kills_before_ = 0;
  std::string buffered_;
  bool cleans_up_ = false;
};

// SIGINT and SIGTERM end the wait of Ask with kInterrupted, instead of the process.
void CatchInterrupts();
bool Interrupted();

// The processors to pin `threads` threads to, chosen from those allowed: one a core first, the
// first core (where interrupts go) last. Fewer than asked for when there are not enough.
std::vector<int> ChooseCpus(int threads, const std::vector<int>& allowed);
// Thread counts for OpenMP and the libraries of peers. Which thread runs where is the child's own
// matter (pinning.h), within the mask that it is started with.
std::vector<std::string> ThreadEnvironment(int threads);

}  // namespace attnbench
