// SPDX-License-Identifier: Apache-2.0
#include "harness/peak_memory.h"

#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace attnbench {
namespace {

// A field of /proc/self/status, in bytes.
double StatusBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(field + ":", 0) == 0) return 1024 * std::stod(line.substr(field.size() + 1));
  return 0;
}

}  // namespace

PeakMemory::PeakMemory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
  std::ofstream("/proc/self/clear_refs") << "5\n";
  before_ = StatusBytes("VmRSS");
}

double PeakMemory::Bytes() const { return std::max(0.0, StatusBytes("VmHWM") - before_); }

void PeakMemory::ExposeHeap() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 16 << 10);
#endif
}

}  // namespace attnbench
