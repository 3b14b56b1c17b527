// SPDX-License-Identifier: Apache-2.0
// An experiment file (experiments/*.toml) -> the list of cases that it asks for.
//
//   title = "..."   description = "..."
//   [sweep]     rounds, isolation, budget_s, seed, ...       (SweepSettings)
//   [axes]      keys = "128:2048:*2"   head_dim = [32, 64]   zip = [["head_dim", "v_dim"]]
//   [input]     kind = "gaussian" | "outliers" | "calibrated" | "tensors"  (file, or model and
//               text)
//   [[kernel]]  name = "flash"   options = {...}   mask = {...}   where = {head_dim = [64]}
//
// `name` may be a list: an entry for each. A [[kernel]] entry may set any field of a case; that
// replaces the axis of this name for this kernel. A layer is an entry too (kind = "layer" may say
// so): it has d_model in place of head_dim, d_out, width, encoding, cross, attention (the kernel
// inside). Lists and ranges are axes wherever they stand. `where` keeps the points whose field is
// in a list. name = "*" stands for every kernel of the registry that no other entry names, less
// those of `except`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/axis.h"
#include "harness/case.h"

namespace attnbench {

struct SweepSettings {
  int rounds = 6;
  std::string isolation = "case";     // or "problem": one child for all kernels of a problem
  double budget_s = 0;                // 0: none; the rounds and their length are fitted into it
  std::uint64_t seed = 1;             // of the inputs and of the order of the rounds
  double target_interval = 0.02;      // relative width of the median's interval that is enough
  double max_seconds_per_case = 1.0;  // timing, per case and round
  double timeout_s = 120;             // a child that answers later is killed
  double run_cap_s = 20;              // a single run predicted to take longer is skipped
  double memory_budget_gib = 0;       // 0: 80 % of what the machine allows
  Index check_rows = 64;              // compared with the oracle, per case
  bool plateau = true;                // stop sampling where the interval cannot be reached
  bool repeat_slowed = true;          // once more, at the end, what the machine was slow for
};
nlohmann::json ToJson(const SweepSettings& settings);
SweepSettings SweepSettingsFromJson(const nlohmann::json& json);

struct Experiment {
  std::string path, name;  // name: the file's stem
  std::string title, description;
  std::string text;  // the file itself, for the copy beside the records
  SweepSettings settings;
  std::vector<Case> cases;  // valid, without duplicates
};

// From the command line: -k keeps these kernels (and adds those that the file does not name), -a
// replaces axes.
struct Overrides {
  std::vector<std::string> kernels;
  std::vector<Axis> axes;
};

// Throws UserError: "FILE:LINE: field: message".
Experiment LoadExperiment(const std::string& path, const Overrides& overrides = {});

// Kernels hosted in Python: of a plugin, or recognised by their file, <peers>/<name>.py.
std::string PeersFolder();  // $ATTNBENCH_PEERS, or kernels/peers of the source tree
bool IsPeer(const std::string& kernel);
std::vector<std::string> Peers();

// Throws UserError for a name that no kernel has; `where` is "-k NAME" or "FILE:LINE".
void CheckKernel(const std::string& name, const std::string& where);

}  // namespace attnbench
