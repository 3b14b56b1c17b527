// SPDX-License-Identifier: Apache-2.0
#include "harness/workers.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "harness/experiment.h"
#include "harness/launch.h"
#include "harness/machine.h"
#include "harness/plugins.h"

namespace attnbench {
namespace {

using nlohmann::json;

bool HostedInPython(const Case& c) { return !FindKernel(c.kernel) && IsPeer(c.kernel); }

// An answer as measured fields; null when interrupted.
json Fields(const Answer& answer) {
  switch (answer.ending) {
    case Ending::kReply: {
      json reply = json::parse(answer.line, nullptr, /*allow_exceptions=*/false);
      if (reply.is_object() && reply.contains("status")) return reply;
      return {{"status", "failed"}, {"reason", "the child's answer is no record"}};
    }
    case Ending::kTimeout:
      return {{"status", "timeout"}, {"reason", answer.reason}};
    case Ending::kDied:
      return {{"status", "failed"}, {"reason", answer.reason}};
    case Ending::kInterrupted:
      break;
  }
  return nullptr;
}

}  // namespace

std::string OwnPath() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "/proc/self/exe" : path.string();
}

// A kernel of ours says what it needs; what takes far more is stopped early, before the machine
// starts to suffer. The check keeps copies, a cold ring cycles several last-level caches.
std::size_t Workers::MemoryFor(const Planned& planned, bool alone) const {
  if (!alone || setup_.memory_bytes == 0 || HostedInPython(planned.c)) return setup_.memory_bytes;
  constexpr double kLibraries = 2.0 * (1u << 30);
  const double enough =
      4 * planned.bytes + 8.0 * static_cast<double>(LastLevelCacheBytes()) + kLibraries;
  return std::min(setup_.memory_bytes, static_cast<std::size_t>(enough));
}

ChildSpec Workers::SpecOf(const Planned& planned, bool alone) const {
  const Case& c = planned.c;
  ChildSpec spec;
  spec.cpus = ChooseCpus(c.threads * c.ranks, setup_.cpus_allowed);
  spec.memory_bytes = MemoryFor(planned, alone);
  spec.environment = ThreadEnvironment(c.threads);
  if (HostedInPython(c)) {
    spec.argv = HostCommand();
    spec.environment.push_back("PYTHONPATH=" + HostPythonPath());
  } else {
    spec.argv = {setup_.program.empty() ? OwnPath() : setup_.program};
    if (c.ranks > 1) {
      spec.argv = RankCommand(c.ranks);
      for (std::string& variable :
           RankEnvironment(c.ranks, c.threads, static_cast<int>(setup_.cpus_allowed.size())))
        spec.environment.push_back(std::move(variable));
      spec.cleans_up = true;
    }
    spec.argv.push_back("child");
    if (c.ranks > 1) spec.argv.insert(spec.argv.end(), {"--threads", std::to_string(c.threads)});
    for (const std::string& plugin : setup_.plugins) {
      if (IsPythonFile(plugin)) continue;
      spec.argv.push_back("--plugin");
      spec.argv.push_back(plugin);
    }
  }
  return spec;
}

json Workers::AskOnce(const Planned& planned, const json& request, double timeout_s) {
  Child child(SpecOf(planned, /*alone=*/true));
  return Fields(child.Ask(request.dump(), timeout_s));
}

json Workers::Measure(const Planned& planned, const json& settings, double timeout_s) {
  const json request = {{"case", ToJson(planned.c)}, {"pass", "measure"}, {"settings", settings}};
  if (!setup_.by_problem || unsafe_.count(planned.problem))
    return AskOnce(planned, request, timeout_s);

  if (shared_problem_ != planned.problem) {
    shared_.clear();
    shared_problem_ = planned.problem;
  }
  std::unique_ptr<Child>& child = shared_[HostedInPython(planned.c)];
  if (!child || !child->alive()) child = std::make_unique<Child>(SpecOf(planned, /*alone=*/false));
  const bool fresh = child->answered() == 0;
  const Answer answer = child->Ask(request.dump(), timeout_s);
  if (answer.ending == Ending::kDied || answer.ending == Ending::kTimeout) {
    // From here on each case of this problem is on its own. What died in a child that had served
    // others may have died of them: it gets a second chance alone.
    unsafe_.insert(planned.problem);
    shared_.clear();
    if (!fresh && answer.ending == Ending::kDied) return AskOnce(planned, request, timeout_s);
  }
  return Fields(answer);
}

json Workers::Memory(const Planned& planned, double timeout_s) {
  return AskOnce(planned, {{"case", ToJson(planned.c)}, {"pass", "memory"}}, timeout_s);
}

}  // namespace attnbench
