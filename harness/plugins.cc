// SPDX-License-Identifier: Apache-2.0
#include "harness/plugins.h"

#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "harness/case.h"
#include "harness/experiment.h"
#include "harness/root.h"
#include "harness/user_error.h"
#include "kernels/contract/plugin.h"

namespace attnbench {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::vector<Hosted>& Loaded() {
  static std::vector<Hosted> hosted;
  return hosted;
}

std::string Quoted(const std::string& argument) {  // for the shell
  std::string quoted = "'";
  for (char c : argument) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string Python() {
  if (const char* python = std::getenv("ATTNBENCH_PYTHON")) return python;
  const std::string in_tree = Root() + "/.venv/bin/python";
  std::error_code error;
  return fs::exists(in_tree, error) ? in_tree : "python3";
}

// The last line that the host prints: {"kernels": [...]} or {"error": "..."}.
json Listed(const std::string& file) {
  std::string command = "PYTHONPATH=" + Quoted(HostPythonPath());
  for (const std::string& word : {Python(), std::string("-m"), std::string("attnbench.host"),
                                  std::string("--list"), std::string("--plugin"), file})
    command += " " + Quoted(word);
  std::FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (!pipe) throw UserError("plugin '" + file + "': Python cannot be started");
  std::string text;
  char buffer[256];
  while (std::size_t n = std::fread(buffer, 1, sizeof(buffer), pipe)) text.append(buffer, n);
  const int status = pclose(pipe);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const std::string last = text.substr(text.rfind('\n') + 1);
  const json answer = json::parse(last, nullptr, /*allow_exceptions=*/false);
  if (answer.is_object() && answer.contains("error"))
    throw UserError("plugin '" + file + "': " + answer["error"].get<std::string>());
  if (status != 0 || !answer.is_object() || !answer.contains("kernels"))
    throw UserError("plugin '" + file + "': " + (last.empty() ? "Python said nothing" : last));
  return answer["kernels"];
}

void LoadPythonFile(const std::string& path) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  if (error) throw UserError("plugin '" + path + "': no such file");
  for (const Hosted& hosted : Loaded())
    if (hosted.file == real) return;
  std::ifstream in(real, std::ios::binary);
  std::ostringstream content;
  content << in.rdbuf();
  for (const json& kernel : Listed(real)) {
    const std::string name = kernel.at("name");
    if (FindKernel(name) || IsPeer(name))
      throw UserError("plugin '" + path + "': kernel '" + name + "' exists already");
    Loaded().push_back({name, kernel.at("idea"), real, HashText(content.str())});
  }
}

}  // namespace

bool IsPythonFile(const std::string& path) { return fs::path(path).extension() == ".py"; }

std::vector<std::string> LoadPythonFiles(const std::vector<std::string>& paths) {
  std::vector<std::string> others;
  for (const std::string& path : paths) {
    if (IsPythonFile(path))
      LoadPythonFile(path);
    else
      others.push_back(path);
  }
  return others;
}

void LoadPlugins(const std::vector<std::string>& paths) {
  for (const std::string& path : LoadPythonFiles(paths))
    if (std::string e = LoadPlugin(path); !e.empty()) throw UserError(e);
}

const std::vector<Hosted>& HostedByPlugins() { return Loaded(); }

const Hosted* FindHosted(const std::string& kernel) {
  for (const Hosted& hosted : Loaded())
    if (hosted.name == kernel) return &hosted;
  return nullptr;
}

std::vector<std::string> HostCommand() {
  std::vector<std::string> command = {Python(), "-m", "attnbench.host"};
  std::string before;
  for (const Hosted& hosted : Loaded()) {
    if (hosted.file != before) command.insert(command.end(), {"--plugin", hosted.file});
    before = hosted.file;
  }
  return command;
}

std::string HostPythonPath() {
  const char* inherited = std::getenv("PYTHONPATH");
  return Root() + "/analysis" + (inherited && *inherited ? ":" + std::string(inherited) : "");
}

}  // namespace attnbench
