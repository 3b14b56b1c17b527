// SPDX-License-Identifier: Apache-2.0
// Test plugin: kernels that are right, but from their first run on the machine is busy with other
// work.
#include <sys/time.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

// One key: the softmax over it is one, and the output its value.
std::string Refuse(const Problem& p, const Options&) {
  return p.keys == 1 ? Unserved(p, {}) : std::string("more than one key");
}
template <bool (*kDisturb)()>
void Run(const Problem& p, const Inputs& in, const Output& out, const Context&) {
  [[maybe_unused]] static const bool started = kDisturb();
  for (Index b = 0; b < p.batch; ++b)
    for (Index h = 0; h < p.heads; ++h)
      for (Index i = 0; i < p.queries; ++i)
        for (Index c = 0; c < p.v_dim; ++c) out.out.Set(b, h, i, c, in.v.At(b, p.KvHead(h), 0, c));
}

constexpr int kPeriodUs = 300, kStolenUs = 150;

bool StealTime() {
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
  return true;
}

std::atomic<bool> busy = true;

bool WantTheProcessor() {
  std::thread([] {
    while (busy.load(std::memory_order_relaxed)) {
    }
  }).detach();
  return true;
}

ATTN_KERNEL(.name = "slows",
            .idea = "test: half of the time stolen, as the probes beside a case see",
            .refuse = Refuse, .run = Run<StealTime>);
ATTN_KERNEL(.name = "shares", .idea = "test: a processor shared too slowly for the probes to see",
            .refuse = Refuse, .run = Run<WantTheProcessor>);

}  // namespace
}  // namespace attnbench
