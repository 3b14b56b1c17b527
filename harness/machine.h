// SPDX-License-Identifier: Apache-2.0
// What the figures were measured on: processor, caches, limits, compiler, versions, build.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace attnbench {

// environment.json. Unreadable things are null, never guessed.
nlohmann::json DescribeEnvironment(int argc, char** argv, std::uint64_t seed);

// A short name for the machine, fit for a folder: "<model>-<cpus>c".
std::string MachineName();
// Identifies the binary: the first 16 hex digits of its GNU build id (or of a hash of the file).
std::string BuildId();
// "<commit>" or "<commit>+dirty"; empty outside a work tree.
std::string GitCommit();

std::vector<int> CpusAllowed();
// Sizes of the data caches seen by one core, level 1 first.
std::vector<std::size_t> DataCacheBytes();
std::size_t LastLevelCacheBytes();
// The least of physical memory, cgroup limits and RLIMIT_DATA/AS.
std::size_t MemoryLimitBytes();

}  // namespace attnbench
