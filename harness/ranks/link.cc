// SPDX-License-Identifier: Apache-2.0
#include "harness/ranks/link.h"

#include <algorithm>
#include <chrono>

#include "harness/inputs.h"
#include "harness/stop_rule.h"

namespace attnbench {

nlohmann::json MeasureLink(MpiRanks* ranks) {
  using Clock = std::chrono::steady_clock;
  constexpr std::size_t kLargest = std::size_t{16} << 20, kMoved = std::size_t{512} << 20;
  constexpr int kLeast = 15, kMost = 2000;
  const int next = (ranks->rank() + 1) % ranks->size();
  const int previous = (ranks->rank() - 1 + ranks->size()) % ranks->size();
  const Buffer send(kLargest), receive(kLargest);
  send.Fill(1), receive.Fill(0);
  nlohmann::json messages = nlohmann::json::array();
  for (std::size_t bytes = 8; bytes <= kLargest; bytes *= 8) {
    const int times = static_cast<int>(std::clamp<std::size_t>(kMoved / bytes, kLeast, kMost));
    std::vector<double> ns;
    for (int i = 0; i < times; ++i) {
      ranks->Barrier();
      const auto begin = Clock::now();
      ranks->Receive(receive.data(), bytes, previous);
      ranks->Send(send.data(), bytes, next);
      ranks->Finish();
      ns.push_back(std::chrono::duration<double, std::nano>(Clock::now() - begin).count());
    }
    double slowest = 0;
    for (const std::string& rank : ranks->Gather(std::to_string(Median(ns))))
      slowest = std::max(slowest, std::stod(rank));
    messages.push_back({{"bytes", bytes}, {"ns", slowest}});
  }
  return {{"ranks", ranks->size()}, {"mpi", MpiRanks::Library()}, {"messages", messages}};
}

}  // namespace attnbench
