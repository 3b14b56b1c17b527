// SPDX-License-Identifier: Apache-2.0
// Which instruction set Highway's dynamic dispatch uses in this process.
#pragma once

#include <string>

namespace attnbench {

// Honours ATTNBENCH_TARGET=SSE2|AVX2|AVX3|AVX3_ZEN4|AVX3_SPR: forces that instruction set. Call it
// first thing. Empty, or why the target cannot be had.
std::string ForceTargetFromEnvironment();

// The name of the instruction set in use, as "AVX3_ZEN4".
std::string DispatchedTarget();

}  // namespace attnbench
