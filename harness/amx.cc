// SPDX-License-Identifier: Apache-2.0
#include "harness/amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace attnbench {
namespace {

// What /usr/include may be too old to name.
constexpr int kRequestPermission = 0x1023, kTileData = 18;

std::string FindMissing() {
  unsigned a, b, c, d;
  const unsigned tile_and_bf16 = 1u << 24 | 1u << 22;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tile_and_bf16) != tile_and_bf16)
    return "this CPU has none";
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0
             ? ""
             : "the operating system does not permit them";
}

// Eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace

std::string AmxMissing() {
  static const std::string missing = FindMissing();
  return missing;
}

__attribute__((target("amx-tile,amx-bf16"))) double AmxLoop(Index iterations) {
  const TileConfig config;
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (Index i = 0; i < iterations; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 4.0 * (2 * 16 * 16 * 32) * static_cast<double>(iterations);
}

}  // namespace attnbench

#else

namespace attnbench {
std::string AmxMissing() { return "this CPU has none"; }
double AmxLoop(Index) { return 0; }
}  // namespace attnbench

#endif
