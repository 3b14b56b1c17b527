// SPDX-License-Identifier: Apache-2.0
// Preloaded, it ends each tensor and each workspace at a page that may not be touched: reading or
// writing beyond one is a SIGSEGV, in the very code that is dispatched to, which address sanitizer
// sees of the instruction set it was built for only (preset asan-avx512 takes long to compile).
// What it gave must not be reallocated; nobody does, of what posix_memalign gave.
#include <dlfcn.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace {

constexpr std::uintptr_t kPage = 65536;  // a multiple of every machine's
constexpr std::uintptr_t kBegin = 0x300000000000, kEnd = 0x400000000000;  // ours, and nobody else's
std::atomic<std::uintptr_t> free_from = kBegin;

}  // namespace

extern "C" {

// Pages: one that is forbidden, one with the length of all, those of the data, one forbidden.
__attribute__((visibility("default"))) int posix_memalign(void** out, std::size_t,
                                                          std::size_t bytes) {
  const std::uintptr_t data = (bytes + kPage - 1) / kPage * kPage, all = data + 3 * kPage;
  const std::uintptr_t at = free_from.fetch_add(all);
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  // NOLINTNEXTLINE: an address is what it is
  void* const begin = mmap(reinterpret_cast<void*>(at), all, PROT_NONE, kFlags, -1, 0);
  if (begin == MAP_FAILED) return ENOMEM;
  char* const header = static_cast<char*>(begin) + kPage;
  if (mprotect(header, kPage + data, PROT_READ | PROT_WRITE) != 0) return ENOMEM;
  *reinterpret_cast<std::uintptr_t*>(header) = all;
  *out = header + kPage + (data - bytes) / 64 * 64;  // vectors stay aligned
  return 0;
}

__attribute__((visibility("default"))) void free(void* pointer) {
  const auto at = reinterpret_cast<std::uintptr_t>(pointer);
  if (at >= kBegin && at < kEnd) {
    char* const header = reinterpret_cast<char*>(at / kPage * kPage - kPage);
    munmap(header - kPage, *reinterpret_cast<std::uintptr_t*>(header));
    return;
  }
  static const auto theirs = reinterpret_cast<void (*)(void*)>(dlsym(RTLD_NEXT, "free"));
  theirs(pointer);
}

}  // extern "C"
