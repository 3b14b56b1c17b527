// SPDX-License-Identifier: Apache-2.0
#include "harness/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>

extern char** environ;

namespace attnbench {
namespace {

using Clock = std::chrono::steady_clock;

volatile sig_atomic_t interrupted = 0;

// The signals that CatchInterrupts() catches are blocked outside of ppoll, so that none is missed
// between the look at `interrupted` and the wait.
sigset_t Caught() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

struct Pipe {
  int read = -1, write = -1;
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
      throw std::runtime_error(std::string("cannot make a pipe: ") + std::strerror(errno));
    read = ends[0], write = ends[1];
  }
};

long OomKills() {
  std::ifstream in("/proc/vmstat");
  std::string name;
  long value;
  while (in >> name >> value)
    if (name == "oom_kill") return value;
  return 0;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& s : strings) pointers.push_back(s.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> MergedEnvironment(const std::vector<std::string>& changes) {
  std::vector<std::string> merged = changes;
  for (char** entry = environ; *entry; ++entry) {
    const std::string variable(*entry);
    const std::string prefix = variable.substr(0, variable.find('=') + 1);
    if (std::none_of(changes.begin(), changes.end(),
                     [&](const std::string& change) { return change.starts_with(prefix); }))
      merged.push_back(variable);
  }
  return merged;
}

// Affinity is inherited over a spawn, and must be right before the child's OpenMP looks at it.
class BorrowedAffinity {
 public:
  explicit BorrowedAffinity(const std::vector<int>& cpus) {
    if (cpus.empty() || sched_getaffinity(0, sizeof(before_), &before_) != 0) return;
    cpu_set_t mask;
    CPU_ZERO(&mask);
    for (const int cpu : cpus) CPU_SET(cpu, &mask);
    changed_ = sched_setaffinity(0, sizeof(mask), &mask) == 0;
  }
  ~BorrowedAffinity() {
    if (changed_) sched_setaffinity(0, sizeof(before_), &before_);
  }

 private:
  cpu_set_t before_;
  bool changed_ = false;
};

}  // namespace

void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);  // a child that died early is a reason, not our end
  signal(SIGXFSZ, SIG_IGN);  // a file-size limit is a failed write
  const sigset_t caught = Caught();
  sigprocmask(SIG_BLOCK, &caught, nullptr);
}

bool Interrupted() {
  if (interrupted) return true;
  sigset_t pending;
  sigpending(&pending);
  return sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1;
}

Child::Child(const ChildSpec& spec) : oom_kills_before_(OomKills()), cleans_up_(spec.cleans_up) {
  Pipe request, reply;
  err_ = memfd_create("child-stderr", MFD_CLOEXEC);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, request.read, 0);
  posix_spawn_file_actions_adddup2(&actions, reply.write, 1);
  posix_spawn_file_actions_adddup2(&actions, err_, 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // A process group of its own: Ctrl-C reaches the parent alone, and a kill reaches grandchildren.
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setpgroup(&attributes, 0);
  sigset_t none, defaults = Caught();
  sigemptyset(&none);
  sigaddset(&defaults, SIGPIPE);
  sigaddset(&defaults, SIGXFSZ);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);

  std::vector<std::string> arguments = spec.argv;
  std::vector<std::string> variables = MergedEnvironment(spec.environment);
  int error;
  {
    const BorrowedAffinity affinity(spec.cpus);
    error = posix_spawnp(&pid_, arguments[0].c_str(), &actions, &attributes,
                         Pointers(arguments).data(), Pointers(variables).data());
  }
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(request.read);
  close(reply.write);
  in_ = request.write;
  out_ = reply.read;
  if (error != 0) {
    pid_ = -1;
    close(in_), close(out_), close(err_);
    throw std::runtime_error("cannot start '" + arguments[0] + "': " + std::strerror(error));
  }
  // Before any request is sent: the child, not the sweep, is what the kernel shall kill when memory
  // runs out, and large allocations fail in the child first.
  std::ofstream("/proc/" + std::to_string(pid_) + "/oom_score_adj") << 1000;
  if (spec.memory_bytes > 0) {
    const rlimit limit = {spec.memory_bytes, spec.memory_bytes};
    prlimit(pid_, RLIMIT_DATA, &limit, nullptr);
  }
}

Child::~Child() {
  if (in_ >= 0) close(in_);
  if (pid_ > 0) {
    // End of file makes it leave; one that does not is killed.
    for (int i = 0; i < 200 && pid_ > 0; ++i) {
      if (waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = -1;
      if (pid_ > 0) usleep(i < 20 ? 500 : 10000);
    }
    if (pid_ > 0) Reap(/*kill_first=*/true);
  }
  if (out_ >= 0) close(out_);
  if (err_ >= 0) close(err_);
}

Answer Child::Ask(const std::string& request, double timeout_s) {
  const std::string line = request + "\n";
  for (std::size_t sent = 0; sent < line.size();) {
    const ssize_t n = write(in_, line.data() + sent, line.size() - sent);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;  // it has gone; what it may have said before is read below
    sent += static_cast<std::size_t>(n);
  }
  const auto deadline = Clock::now() + std::chrono::duration<double>(timeout_s);
  sigset_t none;
  sigemptyset(&none);
  for (;;) {
    if (const std::size_t end = buffered_.find('\n'); end != std::string::npos) {
      Answer answer{Ending::kReply, buffered_.substr(0, end), ""};
      buffered_.erase(0, end + 1);
      ++answered_;
      return answer;
    }
    if (Interrupted()) {
      Reap(true);
      return {Ending::kInterrupted, "", "interrupted"};
    }
    const double left = std::chrono::duration<double>(deadline - Clock::now()).count();
    if (left <= 0) {
      Reap(true);
      char text[64];
      std::snprintf(text, sizeof(text), "no answer within %.3g s; killed", timeout_s);
      return {Ending::kTimeout, "", text};
    }
    pollfd waiting = {out_, POLLIN, 0};
    const timespec wait = {
        static_cast<time_t>(left),
        static_cast<long>((left - static_cast<double>(static_cast<time_t>(left))) * 1e9)};
    if (ppoll(&waiting, 1, &wait, &none) <= 0) continue;
    char chunk[65536];
    const ssize_t n = read(out_, chunk, sizeof(chunk));
    if (n > 0) {
      buffered_.append(chunk, static_cast<std::size_t>(n));
    } else if (n == 0 || errno != EINTR) {
      return {Ending::kDied, "", Reap(false)};
    }
  }
}

std::string Child::Reap(bool kill_first) {
  if (pid_ <= 0) return "the child has ended";
  if (kill_first && cleans_up_) kill(pid_, SIGTERM);
  if (!kill_first || cleans_up_) {
    // It closed its end, or was asked to: leave it a moment to die by itself, so that its own
    // status is seen.
    siginfo_t info = {};
    for (int i = 0; i < 500; ++i) {
      if (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
          info.si_pid == pid_)
        break;
      usleep(10000);
    }
  }
  kill(-pid_, SIGKILL);
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  std::string reason;
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    const char* name = sigabbrev_np(number);
    reason = "killed by SIG" + (name ? std::string(name) : std::to_string(number));
    if (number == SIGKILL && OomKills() > oom_kills_before_) reason += " (out of memory)";
  } else {
    reason = "ended with exit status " + std::to_string(WEXITSTATUS(status));
  }
  if (const std::string words = LastWords(); !words.empty()) reason += ": " + words;
  return reason;
}

std::string Child::LastWords() const {
  constexpr off_t kTail = 4096;
  const off_t size = lseek(err_, 0, SEEK_END);
  char text[kTail];
  const ssize_t n = pread(err_, text, kTail, std::max<off_t>(0, size - kTail));
  if (n <= 0) return "";
  std::istringstream tail(std::string(text, static_cast<std::size_t>(n)));
  std::string last, own;
  for (std::string line; std::getline(tail, line);) {
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) line.pop_back();
    if (line.starts_with("attnbench: ")) own = line;
    if (line.find_first_not_of("- ") != std::string::npos) last = line;  // no rule of a banner
  }
  // A launcher has more to say after the rank that failed.
  return (cleans_up_ && !own.empty() ? own : last).substr(0, 300);
}

std::vector<int> ChooseCpus(int threads, const std::vector<int>& allowed) {
  // One processor of each core, then their siblings.
  std::vector<int> first, siblings;
  std::set<std::string> cores;
  for (const int cpu : allowed) {
    std::ifstream in("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                     "/topology/thread_siblings_list");
    std::string core = "cpu" + std::to_string(cpu);
    if (std::string list; std::getline(in, list)) core = list;
    (cores.insert(core).second ? first : siblings).push_back(cpu);
  }
  std::vector<int> order(first.rbegin(), first.rend());
  order.insert(order.end(), siblings.rbegin(), siblings.rend());
  if (order.size() > static_cast<std::size_t>(threads))
    order.resize(static_cast<std::size_t>(threads));
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<std::string> ThreadEnvironment(int threads) {
  const std::string count = std::to_string(threads);
  // OpenMP's own binding would move the first thread before the child has read its mask.
  return {"OMP_NUM_THREADS=" + count, "OMP_DYNAMIC=false", "OMP_PROC_BIND=false",
          "MKL_NUM_THREADS=" + count, "OPENBLAS_NUM_THREADS=" + count};
}

}  // namespace attnbench
