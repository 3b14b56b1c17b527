// SPDX-License-Identifier: Apache-2.0
// The folder of one run: records.jsonl, the experiment's copy, run.json (the cases as they were
// resolved, for --resume), environment.json, and a lock, so that one sweep at a time writes here.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace attnbench {

class RunDirectory {
 public:
  // A new or empty folder, made with its parents. Throws UserError, having written nothing.
  static RunDirectory Create(const std::string& path);
  // One that holds a run. Throws UserError when it does not, or when another sweep writes there.
  static RunDirectory Open(const std::string& path);
  ~RunDirectory();
  RunDirectory(RunDirectory&& other) noexcept;
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  // Whole or not at all: written beside, synced, renamed. Throws std::runtime_error.
  void Write(const std::string& name, const std::string& text) const;
  nlohmann::json ReadRun() const;  // run.json; throws UserError

 private:
  explicit RunDirectory(std::string path) : path_(std::move(path)) {}
  void Lock();

  std::string path_;
  int lock_ = -1;
};

// results/<experiment>/<machine>/<UTC time>, under the current folder; not yet taken.
std::string DefaultRunPath(const std::string& experiment);

}  // namespace attnbench
