// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <string>

namespace attnbench {

// Where experiments, peers and the Python package lie: the source tree that this was built from, or
// what ATTNBENCH_ROOT names (an installed package sets it: it has the same names inside).
inline std::string Root() {
  const char* root = std::getenv("ATTNBENCH_ROOT");
  return root && *root ? root : ATTNBENCH_SOURCE_DIR;
}

}  // namespace attnbench
