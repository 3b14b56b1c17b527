// SPDX-License-Identifier: Apache-2.0
// What `attnbench list` shows: the registry, and the peers by their files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace attnbench {

// [{"name", "host", "idea", "target", "provides": [], "options": [{name, default, min, max,
// help}]}]
nlohmann::json ListKernels();
std::string FormatKernelList(const nlohmann::json& kernels);

}  // namespace attnbench
