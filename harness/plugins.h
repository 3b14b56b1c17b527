// SPDX-License-Identifier: Apache-2.0
// What --plugin names: shared objects, whose kernels join the registry, and Python files, whose
// kernels run in a child of Python (analysis/attnbench/host.py) as those of kernels/peers/ do.
#pragma once

#include <string>
#include <vector>

namespace attnbench {

// Loads a plugin of either kind; a Python file is asked for its kernels in a process of its own.
// Loading a path twice does nothing. Throws UserError: not found, not a plugin, a name taken.
void LoadPlugins(const std::vector<std::string>& paths);

// Loads the Python files among the plugins; the others, for whoever loads them. Throws UserError.
std::vector<std::string> LoadPythonFiles(const std::vector<std::string>& paths);

struct Hosted {
  std::string name, idea, file;  // file: the absolute path of the plugin
  std::string build;             // a hash of it
};
// The kernels of the Python files loaded so far.
const std::vector<Hosted>& HostedByPlugins();
const Hosted* FindHosted(const std::string& kernel);  // null when there is none

bool IsPythonFile(const std::string& path);
// The command that starts the host process, Python files and all, and the PYTHONPATH for it.
std::vector<std::string> HostCommand();
std::string HostPythonPath();

}  // namespace attnbench
