// SPDX-License-Identifier: Apache-2.0
// What the user sees while a sweep runs: one line that is rewritten on a terminal, plain lines at a
// readable rate elsewhere. Everything goes to standard error.
#pragma once

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "harness/case.h"

namespace attnbench {

class Progress {
 public:
  explicit Progress(std::FILE* out = stderr);
  ~Progress();
  // A case is about to be visited: k of n visits.
  void Begin(std::size_t k, std::size_t n, const std::string& label, double eta_s);
  // What it came to. Everything but ok always gets a line of its own, once.
  void End(const nlohmann::json& record);
  // A message that stays.
  void Note(const std::string& text);

 private:
  void Show(const std::string& line, bool keep);

  std::FILE* out_;
  bool terminal_;
  bool open_ = false;  // a rewritable line stands
  std::size_t k_ = 0, n_ = 0;
  double eta_s_ = 0;
  std::string label_, last_;
  std::chrono::steady_clock::time_point last_line_;
};

// "flash keys=1024 d=64": what tells this case from others, in few words.
std::string Label(const Case& c);
std::string FormatClock(double seconds);  // "1:23", "2:03:04"

}  // namespace attnbench
