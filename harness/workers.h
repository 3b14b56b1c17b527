// SPDX-License-Identifier: Apache-2.0
// The children that measure: a fresh one a case, or one that is shared by the kernels of a problem.
// Every way in which one can end becomes a status and a reason.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "harness/process.h"
#include "harness/schedule.h"

namespace attnbench {

class Workers {
 public:
  struct Setup {
    std::string program;  // whose children measure; empty: this binary's
    std::vector<std::string> plugins;
    std::vector<int> cpus_allowed;
    std::size_t memory_bytes = 0;  // no child may have more; 0: no limit
    bool by_problem = false;
  };
  explicit Workers(Setup setup) : setup_(std::move(setup)) {}

  // The measured fields of a record; status "failed" or "timeout" with its reason when the child
  // did not answer. Null when the sweep was interrupted.
  nlohmann::json Measure(const Planned& planned, const nlohmann::json& settings, double timeout_s);
  // The memory pass: always in a child of its own.
  nlohmann::json Memory(const Planned& planned, double timeout_s);
  // Ends the children that are shared.
  void Release() { shared_.clear(); }

 private:
  std::size_t MemoryFor(const Planned& planned, bool alone) const;
  ChildSpec SpecOf(const Planned& planned, bool alone) const;
  nlohmann::json AskOnce(const Planned& planned, const nlohmann::json& request, double timeout_s);

  Setup setup_;
  std::string shared_problem_;
  std::map<bool, std::unique_ptr<Child>> shared_;  // native, hosted in Python
  std::set<std::string> unsafe_;                   // problems whose shared child has died
};

// The path of this binary, for the children.
std::string OwnPath();

}  // namespace attnbench
