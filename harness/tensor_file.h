// SPDX-License-Identifier: Apache-2.0
// What a safetensors file of real Q, K and V holds, without reading the tensors into a problem.
#pragma once

#include <string>

#include "kernels/contract/tensor.h"

namespace attnbench {

struct TensorFile {
  Index layers = 0, heads = 0, tokens = 0, head_dim = 0, v_dim = 0;
  std::string content;  // hash of the whole file
};

// Throws UserError with one line that starts with the path.
TensorFile DescribeTensorFile(const std::string& path);

}  // namespace attnbench
