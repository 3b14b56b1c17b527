// SPDX-License-Identifier: Apache-2.0
#include "harness/counters.h"

#include <linux/perf_event.h>
#include <omp.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace attnbench {
namespace {

struct Event {
  const char* name;
  std::uint32_t type;
  std::uint64_t config;
};
constexpr std::array<Event, 6> kEvents = {{
    {"instructions", PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS},
    {"cycles", PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES},
    {"cache_misses", PERF_TYPE_HARDWARE, PERF_COUNT_HW_CACHE_MISSES},
    {"branch_misses", PERF_TYPE_HARDWARE, PERF_COUNT_HW_BRANCH_MISSES},
    {"page_faults", PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS},
    {"context_switches", PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CONTEXT_SWITCHES},
}};

// One event of the calling thread, in user space only (all that an ordinary user may count).
class Counter {
 public:
  explicit Counter(const Event& event) {
    perf_event_attr attributes = {};
    attributes.size = sizeof(attributes);
    attributes.type = event.type;
    attributes.config = event.config;
    attributes.disabled = 1;
    attributes.exclude_kernel = event.type == PERF_TYPE_HARDWARE;
    attributes.exclude_hv = 1;
    attributes.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
    fd_ = static_cast<int>(syscall(SYS_perf_event_open, &attributes, /*pid=*/0, /*cpu=*/-1,
                                   /*group=*/-1, PERF_FLAG_FD_CLOEXEC));
    if (fd_ < 0) error_ = errno;
  }
  Counter(Counter&& other) noexcept : fd_(std::exchange(other.fd_, -1)), error_(other.error_) {}
  Counter(const Counter&) = delete;
  ~Counter() {
    if (fd_ >= 0) close(fd_);
  }
  int error() const { return error_; }
  void Start() const {
    if (fd_ >= 0) ioctl(fd_, PERF_EVENT_IOC_ENABLE, 0);
  }
  // Below 0: not counted. Where more events are asked for than the processor has counters, each
  // ran for a part of the time and is scaled up.
  double Stop() const {
    struct {
      std::uint64_t value, enabled, running;
    } read_out = {};
    if (fd_ < 0) return -1;
    ioctl(fd_, PERF_EVENT_IOC_DISABLE, 0);
    if (read(fd_, &read_out, sizeof(read_out)) != sizeof(read_out)) return -1;
    if (read_out.running == 0) return -1;
    return static_cast<double>(read_out.value) * static_cast<double>(read_out.enabled) /
           static_cast<double>(read_out.running);
  }

 private:
  int fd_ = -1, error_ = 0;
};

std::string Why(const char* event, int error) {
  const std::string what = std::string(event) + ": perf_event_open: " + std::strerror(error);
  if (error == ENOENT || error == EOPNOTSUPP)
    return what + " (no such counter here, as in many virtual machines)";
  if (error == EACCES || error == EPERM)
    return what + " (not permitted: /proc/sys/kernel/perf_event_paranoid)";
  return what;
}

}  // namespace

Counted CountRuns(int threads, int runs, const std::function<void()>& run) {
  std::vector<std::vector<Counter>> counters(static_cast<std::size_t>(threads));
#pragma omp parallel num_threads(threads)
  {
    std::vector<Counter>& mine = counters[static_cast<std::size_t>(omp_get_thread_num())];
    for (const Event& event : kEvents) mine.emplace_back(event);
  }
  for (const auto& of_thread : counters)
    for (const Counter& counter : of_thread) counter.Start();
  for (int r = 0; r < runs; ++r) run();
  Counted counted;
  counted.values = nlohmann::json::object();
  for (std::size_t e = 0; e < kEvents.size(); ++e) {
    double total = 0;
    bool whole = true;
    for (const auto& of_thread : counters) {
      if (of_thread.empty()) continue;  // OpenMP gave fewer threads
      const double value = of_thread[e].Stop();
      whole &= value >= 0;
      total += value;
      if (of_thread[e].error() != 0 && counted.reason.empty())
        counted.reason = Why(kEvents[e].name, of_thread[e].error());
    }
    counted.values[kEvents[e].name] =
        whole ? nlohmann::json(total / runs) : nlohmann::json(nullptr);
    if (!whole && counted.reason.empty())
      counted.reason = std::string(kEvents[e].name) + ": could not be read";
  }
  return counted;
}

}  // namespace attnbench
