// SPDX-License-Identifier: Apache-2.0
// run allocates nothing: malloc and its kin are counted while a kernel runs a second time. The one
// exception is BLIS, which keeps a pool of packing buffers and fills it in its first calls.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>

#include "harness/inputs.h"
#include "harness/run_setup.h"
#include "harness/tile_lists.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define ATTNBENCH_CAN_COUNT 0
#else
#define ATTNBENCH_CAN_COUNT 1
#endif

#if ATTNBENCH_CAN_COUNT
namespace {
std::atomic<bool> counting{false};
std::atomic<long> allocations{0};
void Count() {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1);
}
}  // namespace

// In place of the C library's for the whole program (operator new ends here too).
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

__attribute__((visibility("default"))) void* malloc(std::size_t bytes) {
  Count();
  return __libc_malloc(bytes);
}
__attribute__((visibility("default"))) void* calloc(std::size_t count, std::size_t bytes) {
  Count();
  return __libc_calloc(count, bytes);
}
__attribute__((visibility("default"))) void* realloc(void* old, std::size_t bytes) {
  Count();
  return __libc_realloc(old, bytes);
}
__attribute__((visibility("default"))) void* aligned_alloc(std::size_t alignment,
                                                           std::size_t bytes) {
  Count();
  return __libc_memalign(alignment, bytes);
}
__attribute__((visibility("default"))) int posix_memalign(void** out, std::size_t alignment,
                                                          std::size_t bytes) {
  Count();
  *out = __libc_memalign(alignment, bytes);
  return *out ? 0 : 12;
}
}

namespace attnbench {
namespace {

long AllocationsIn(const Kernel& kernel, const Problem& p, int threads) {
  const Options options(kernel.options);
  const OwnedInputs inputs = OwnedInputs::Make(kernel, options, p, {}, 1);
  const OwnedOutput output(p, kernel.layer ? 0 : kernel.provides);  // a layer's weights are copies
  const Buffer workspace = WorkspaceOf(kernel, p, options, threads);
  const RunSetup setup(kernel, p, options, inputs.view(), threads, workspace.data());
  kernel.run(p, inputs.view(), output.view(), setup.context());  // starts the thread pool
  // A pool for two threads is full only after both have been in BLIS at once, which chance decides.
  const int attempts = kernel.name == "blis_blocked" || kernel.layer ? 50 : 1;
  for (int attempt = 0; attempt < attempts; ++attempt) {
    allocations = 0;
    counting = true;
    kernel.run(p, inputs.view(), output.view(), setup.context());
    counting = false;
    if (allocations == 0) break;
  }
  return allocations;
}

TEST(Allocation, TheCounterCounts) {
  Kernel greedy{.name = "greedy",
                .run = [](const Problem&, const Inputs&, const Output&, const Context&) {
                  volatile char* held = static_cast<char*>(std::malloc(10));
                  held[0] = 1;
                  std::free(const_cast<char*>(held));
                  delete new int(3);
                }};
  Problem p;
  p.queries = 4, p.head_dim = 4;
  EXPECT_GE(AllocationsIn(greedy, p.Resolve(), 1), 1);
}

TEST(Allocation, NoKernelAllocatesInRun) {
  for (const Kernel* kernel : Kernels()) {
    if (kernel->host != "cpp") continue;        // other tests load plugins that allocate on purpose
    if (kernel->name == "reference") continue;  // the oracle may: it is never timed against others
    for (const auto pattern :
         {Mask::Pattern::kFull, Mask::Pattern::kLocal, Mask::Pattern::kStrided,
          Mask::Pattern::kColumns, Mask::Pattern::kFixed, Mask::Pattern::kTiles})
      for (Index queries : {1, 150})
        for (DType dtype : {DType::kF32, DType::kBF16})
          for (int threads : {1, 2}) {
            Problem p;
            p.queries = queries, p.keys = 150, p.head_dim = 32, p.heads = 2;
            p.dtype = p.out_dtype = dtype;
            p.mask.pattern = pattern, p.mask.causal = true;
            p.mask.window = 20, p.mask.stride = 16, p.mask.columns = 2;
            if (pattern == Mask::Pattern::kTiles) {  // classes of rows: problems of their own
              const TileSpec spec{.tile = 1, .band = 9, .dilation = 2};
              p.mask.tiles = std::make_shared<TileList>(MakeTiles(spec, queries, 150, true));
            }
            p.Resolve();
            if (!kernel->refuse(p, Options(kernel->options)).empty()) continue;
            EXPECT_EQ(AllocationsIn(*kernel, p, threads), 0)
                << kernel->name << " " << Name(pattern) << " " << Name(dtype) << " " << queries
                << " queries, " << threads << " threads";
          }
  }
}

TEST(Allocation, NoLayerAllocatesInRun) {
  for (const Kernel* layer : Layers())
    for (int threads : {1, 2}) {
      Problem p;
      p.queries = 150, p.layer.d_model = 64;
      p.layer.width = layer->name == "convolution" ? 3 : 0;
      p.Resolve();
      EXPECT_EQ(AllocationsIn(*layer, p, threads), 0) << layer->name << " " << threads;
    }
}

}  // namespace
}  // namespace attnbench
#endif
