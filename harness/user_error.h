// SPDX-License-Identifier: Apache-2.0
// Bad input: one clear line that names the file, line and field. The command line prints it and
// exits 2; nothing has been written by then.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace attnbench {

struct UserError : std::runtime_error {
  explicit UserError(std::string line) : std::runtime_error(OneLine(std::move(line))) {}

 private:
  // A name out of a file may hold anything, line ends too.
  static std::string OneLine(std::string text) {
    std::replace_if(
        text.begin(), text.end(),
        [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }, '?');
    return text;
  }
};

}  // namespace attnbench
