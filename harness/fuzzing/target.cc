// SPDX-License-Identifier: Apache-2.0
// What libFuzzer calls: one program for experiment files, one for records (ATTNBENCH_FUZZED says
// which). Anything that must not be is an abort, with the reason before it.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "harness/fuzzing/readers.h"

extern "C" __attribute__((visibility("default"))) int LLVMFuzzerTestOneInput(
    const std::uint8_t* data, std::size_t size) {
  static const attnbench::Reader reader = attnbench::ATTNBENCH_FUZZED();
  const auto reading = reader(std::string(reinterpret_cast<const char*>(data), size));
  if (!reading.wrong.empty()) {
    std::fprintf(stderr, "%s\n", reading.wrong.c_str());
    std::abort();
  }
  return 0;
}
