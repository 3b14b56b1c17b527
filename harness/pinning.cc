// SPDX-License-Identifier: Apache-2.0
#include "harness/pinning.h"

#include <omp.h>
#include <sched.h>

#include "harness/machine.h"

namespace attnbench {
namespace {

void SetAffinity(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu : cpus) CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof(set), &set);  // of the calling thread; where refused, nothing is lost
}

}  // namespace

std::vector<int> PinThreads(int threads, bool each_thread) {
  static const std::vector<int> allowed = CpusAllowed();  // as the process was started
  const int available = static_cast<int>(allowed.size());
  const int count = threads < available ? threads : available;
  const std::vector<int> cpus(allowed.end() - count, allowed.end());
  SetAffinity(cpus);  // threads started from here on inherit it
  if (each_thread && threads <= available) {
#pragma omp parallel num_threads(threads)
    SetAffinity({cpus[omp_get_thread_num()]});
  }
  return cpus;
}

}  // namespace attnbench
