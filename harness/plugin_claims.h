// SPDX-License-Identifier: Apache-2.0
// Kernels of plugins as the sweep sees them. Their code runs in child processes only: what they
// refuse, need and execute is asked for there too, so that a plugin that crashes or hangs while it
// is loaded, or in a claim, costs its own cases and not the sweep.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace attnbench {

// Thrown by refuse, workspace and executed of such a kernel; says what became of the child.
struct ClaimFailed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Registers a stand-in for every kernel of these plugins (absolute paths). Throws UserError.
void RegisterPluginClaims(const std::vector<std::string>& plugins);

// "+<hash of the plugins>" for a kernel that comes from one, else empty: a rebuilt plugin makes
// other measurements, as a rebuilt binary does.
std::string PluginTag(const std::string& kernel);

}  // namespace attnbench
