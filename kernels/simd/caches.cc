// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/caches.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace attnbench {

Index LargestCacheBytes() {
  static const Index bytes = [] {
    Index largest = 0;
    for (int i = 0; i < 8; ++i) {
      Index kib = 0;
      std::ifstream("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/size") >>
          kib;
      largest = std::max(largest, kib * 1024);
    }
    return largest > 0 ? largest : Index{32} << 20;
  }();
  return bytes;
}

}  // namespace attnbench
