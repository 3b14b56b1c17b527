// SPDX-License-Identifier: Apache-2.0
// Which kernels are hosted in Python: those of the Python files that were loaded, and the folder of
// peers, which is only looked at, without starting Python.
#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "harness/experiment.h"
#include "harness/plugins.h"
#include "harness/root.h"

namespace attnbench {

namespace fs = std::filesystem;

std::string PeersFolder() {
  if (const char* folder = std::getenv("ATTNBENCH_PEERS")) return folder;
  return Root() + "/kernels/peers";
}

bool IsPeer(const std::string& kernel) {
  if (FindHosted(kernel)) return true;
  if (kernel.empty() || kernel.find('/') != std::string::npos) return false;
  std::error_code error;
  return fs::is_regular_file(fs::path(PeersFolder()) / (kernel + ".py"), error);
}

std::vector<std::string> Peers() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(PeersFolder(), error))
    if (entry.path().extension() == ".py" && entry.path().stem().string().front() != '_')
      names.push_back(entry.path().stem());
  for (const Hosted& hosted : HostedByPlugins()) names.push_back(hosted.name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace attnbench
