// SPDX-License-Identifier: Apache-2.0
// A case: one kernel on one problem, with everything that defines the measurement. Its canonical
// JSON travels to the child processes and its hash names it in the records, so that two runs agree
// on what is the same case.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "harness/tile_lists.h"
#include "kernels/contract/kernel.h"

namespace attnbench {

// Where Q, K and V come from. Two cases of one input spec and seed see the same numbers.
struct InputSpec {
  static constexpr Index kAllHeads = -1;

  std::string kind = "gaussian";  // one that KnownInputKind() knows; see inputs.h
  double logit_scale = 1;         // Gaussian kinds: standard deviation of the logits, roughly
  std::string file;               // tensors: safetensors file
  Index layer = 0;                // tensors: reads layer{layer}.q, .k, .v
  Index head = kAllHeads;         // tensors: one head of it, or all; calibrated: of the table
  std::string content;            // tensors: what the file says it holds, e.g. hash of its text
};

struct Case {
  std::string kernel;
  std::string kind = "attention";        // or "layer": the problem has a LayerShape
  std::map<std::string, Index> options;  // all of the kernel's options, resolved
  Problem problem;                       // resolved
  TileSpec tiles;  // what the mask's list was made from, if from one; then its JSON has no list
  InputSpec input;
  std::uint64_t seed = 0;
  int threads = 1;
  std::string cache = "warm";  // "warm" or "cold"
  int ranks = 1;
};

bool KnownInputKind(const std::string& kind);

nlohmann::json ToJson(const Problem& problem);
nlohmann::json ToJson(const Case& c);
// Empty, or what is wrong. The problem comes back resolved and valid.
std::string FromJson(const nlohmann::json& json, Problem* problem);
std::string FromJson(const nlohmann::json& json, Case* c);

// 16 hexadecimal digits of 64-bit FNV-1a.
std::string HashText(const std::string& text);
// Of the canonical JSON, without the input file's path: its content counts, not where it lies.
std::string Hash(const Case& c);
// The same for all kernels and options that solve one problem on one input in one way: what
// isolation = "problem" shares a child process over, and what ratios are taken within. A layer's
// name is part of its problem.
std::string ProblemHash(const Case& c);

// The options of a case for a kernel. Empty, or what is wrong.
std::string ResolveOptions(const Case& c, const Kernel& kernel, Options* options);

}  // namespace attnbench
