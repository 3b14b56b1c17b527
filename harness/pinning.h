// SPDX-License-Identifier: Apache-2.0
// Threads stay where they are put, and the record says where.
#pragma once

#include <vector>

namespace attnbench {

// Restricts the process to `threads` of the processors that it was started with, the last ones
// (the first serves most interrupts); with each_thread also gives each OpenMP thread one of them.
// Kernels hosted in Python bring thread pools of their own: the process' mask is all they get.
// Returns the processors.
std::vector<int> PinThreads(int threads, bool each_thread);

}  // namespace attnbench
