// SPDX-License-Identifier: Apache-2.0
// For tests: the harness run as its users run it, on files in a folder that goes away.
#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "harness/temporary_folder.h"

namespace attnbench {

struct Outcome {
  int status = -1;
  std::string output;  // standard output and error
};

// Runs a shell command.
inline Outcome Shell(const std::string& command) {
  Outcome outcome;
  std::FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return outcome;
  std::array<char, 4096> chunk;
  for (std::size_t n; (n = fread(chunk.data(), 1, chunk.size(), pipe)) > 0;)
    outcome.output.append(chunk.data(), n);
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

// Runs `attnbench-harness ARGUMENTS`.
inline Outcome Harness(const std::string& arguments) {
  return Shell(std::string(ATTNBENCH_HARNESS) + " " + arguments);
}

// A sweep in the background, to be interrupted or killed.
class Background {
 public:
  Background(const TemporaryFolder& folder, const std::string& arguments) : folder_(folder) {
    // The shell says its process id and becomes the sweep.
    const std::string command = "sh -c 'echo $$ > " + folder.File("pid") +
                                "; exec " ATTNBENCH_HARNESS " sweep " + arguments + "'";
    thread_ = std::thread([this, command] { outcome_ = Shell(command); });
  }
  ~Background() {
    if (thread_.joinable()) Signal(SIGKILL);
  }
  int pid() const { return std::stoi(folder_.Read("pid")); }
  Outcome Signal(int number) {
    kill(pid(), number);
    return Wait();
  }
  Outcome Wait() {
    thread_.join();
    return outcome_;
  }

 private:
  const TemporaryFolder& folder_;
  Outcome outcome_;
  std::thread thread_;
};

// Until it holds, or a minute has passed.
template <class Condition>
bool WaitFor(Condition holds) {
  for (int i = 0; i < 6000 && !holds(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return holds();
}

// The shared object of a test kernel: "crash", "hang", "wrong", ...
inline std::string TestPlugin(const std::string& name) {
  return std::string(ATTNBENCH_TEST_PLUGINS) + "/attnbench_test_" + name + ".so";
}

}  // namespace attnbench
