// SPDX-License-Identifier: Apache-2.0
// The measuring process: reads one JSON request a line, answers one JSON line, until end of file.
//   request {"case": ..., "pass": "measure" | "memory", "settings": {...}}
//   reply   the measured fields of a record: status, reason, samples_ns, ...
#pragma once

#include <functional>
#include <nlohmann/json.hpp>

#include "harness/case.h"

namespace attnbench {

// What measures; by default this process alone.
struct Passes {
  std::function<nlohmann::json(const Case&, const nlohmann::json& settings)> measure;
  std::function<nlohmann::json(const Case&)> memory;
};
Passes PassesHere();

// File descriptor 1 is redirected to 2 while this runs, so that what a library prints does no harm;
// pass the original standard output's number (1) as out_fd and it is duplicated first. Returns the
// exit status: 0 at end of file, 2 on a line that is no request.
int ChildLoop(int in_fd, int out_fd, const Passes& passes = PassesHere());

}  // namespace attnbench
