// SPDX-License-Identifier: Apache-2.0
#include "harness/tensor_file.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "harness/case.h"
#include "harness/user_error.h"

namespace attnbench {

TensorFile DescribeTensorFile(const std::string& path) {
  const auto fail = [&](const std::string& what) { throw UserError(path + ": " + what); };
  std::ifstream in(path, std::ios::binary);
  if (!in) fail("no such file (`attnbench tensors` makes the files of real Q, K and V)");
  std::ostringstream whole;
  whole << in.rdbuf();
  const std::string bytes = whole.str();
  std::uint64_t length = 0;
  if (bytes.size() < sizeof(length)) fail("is not a safetensors file");
  std::memcpy(&length, bytes.data(), sizeof(length));
  if (length > bytes.size() - sizeof(length)) fail("is not a safetensors file");
  const auto header =
      nlohmann::json::parse(bytes.substr(sizeof(length), length), nullptr, /*exceptions=*/false);
  TensorFile file;
  try {
    const auto shape = [&](const char* name, int axis) {
      return header.at(name).at("shape").at(axis).get<Index>();
    };
    file.heads = shape("layer0.q", 1);
    file.tokens = shape("layer0.q", 2);
    file.head_dim = shape("layer0.q", 3);
    file.v_dim = shape("layer0.v", 3);
    while (header.contains("layer" + std::to_string(file.layers) + ".q")) ++file.layers;
  } catch (const nlohmann::json::exception&) {
    fail("holds no tensors layer0.q, .k, .v of shape [1, heads, tokens, dim]");
  }
  file.content = HashText(bytes);
  return file;
}

}  // namespace attnbench
