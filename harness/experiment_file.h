// SPDX-License-Identifier: Apache-2.0
// The TOML of an experiment as it is written: entries and axes with their lines, nothing expanded.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harness/axis.h"
#include "harness/experiment.h"

namespace attnbench {

// An axis named "options.x" sets option x of the kernel.
inline constexpr std::string_view kOptionPrefix = "options.";

struct KernelEntry {
  std::string name;
  std::vector<Axis> axes = {};     // its own fields, mask and options
  std::vector<Axis> filters = {};  // `where`
  std::vector<std::string> except = {};
  std::string where = {};  // FILE:LINE
};

struct ExperimentFile {
  std::string path, text, title, description;
  SweepSettings settings;
  InputSpec input;
  std::vector<Axis> axes;
  std::vector<std::vector<std::string>> zips;
  std::string zip_where;
  std::vector<KernelEntry> kernels;
};

// Throws UserError: "FILE:LINE: field: message", also for fields that nobody reads.
ExperimentFile ReadExperimentFile(const std::string& path);

}  // namespace attnbench
