// SPDX-License-Identifier: Apache-2.0
// Test plugin: right, but from its first run on a timer steals half of the processor's time: what a
// neighbour does to a shared machine, seen by the probes beside the case.
#include <sys/time.h>

#include <chrono>
#include <csignal>

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

constexpr int kPeriodUs = 300, kStolenUs = 150;

void StealTime() {
  struct sigaction action = {};
  action.sa_flags = SA_RESTART;
  action.sa_handler = [](int) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(kStolenUs);
    while (std::chrono::steady_clock::now() < end) {
    }
  };
  sigaction(SIGALRM, &action, nullptr);
  const itimerval every = {{0, kPeriodUs}, {0, kPeriodUs}};
  setitimer(ITIMER_REAL, &every, nullptr);
}

// One key: the softmax over it is one, and the output its value.
void Run(const Problem& p, const Inputs& in, const Output& out, const Context&) {
  [[maybe_unused]] static const bool started = (StealTime(), true);
  for (Index b = 0; b < p.batch; ++b)
    for (Index h = 0; h < p.heads; ++h)
      for (Index i = 0; i < p.queries; ++i)
        for (Index c = 0; c < p.v_dim; ++c) out.out.Set(b, h, i, c, in.v.At(b, p.KvHead(h), 0, c));
}

ATTN_KERNEL(
        .name = "slows", .idea = "test: a busy neighbour",
        .refuse =
            [](const Problem& p, const Options&) {
              return p.keys == 1 ? Unserved(p, {}) : std::string("more than one key");
            },
        .run = Run);

}  // namespace
}  // namespace attnbench
