// SPDX-License-Identifier: Apache-2.0
// Bad input: one clear line that names the file, line and field. The command line prints it and
// exits 2; nothing has been written by then.
#pragma once

#include <stdexcept>

namespace attnbench {

struct UserError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace attnbench
