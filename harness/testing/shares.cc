// SPDX-License-Identifier: Apache-2.0
// Test plugin: right, but from its first run on a second thread wants the processor too: what other
// work does to a busy machine. It comes and goes too slowly for the probes beside the case.
#include <atomic>
#include <thread>

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

std::atomic<bool> busy = true;

bool WantTheProcessor() {
  std::thread([] {
    while (busy.load(std::memory_order_relaxed)) {
    }
  }).detach();
  return true;
}

// One key: the softmax over it is one, and the output its value.
void Run(const Problem& p, const Inputs& in, const Output& out, const Context&) {
  [[maybe_unused]] static const bool started = WantTheProcessor();
  for (Index b = 0; b < p.batch; ++b)
    for (Index h = 0; h < p.heads; ++h)
      for (Index i = 0; i < p.queries; ++i)
        for (Index c = 0; c < p.v_dim; ++c) out.out.Set(b, h, i, c, in.v.At(b, p.KvHead(h), 0, c));
}

ATTN_KERNEL(
        .name = "shares", .idea = "test: a processor shared with other work",
        .refuse =
            [](const Problem& p, const Options&) {
              return p.keys == 1 ? Unserved(p, {}) : std::string("more than one key");
            },
        .run = Run);

}  // namespace
}  // namespace attnbench
