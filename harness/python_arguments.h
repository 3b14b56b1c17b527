// SPDX-License-Identifier: Apache-2.0
// What Python hands over, as the contract's types. Whatever is wrong is a ValueError that begins
// with the argument's name. Part of the Python extension only.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "kernels/contract/kernel.h"

namespace attnbench {

[[noreturn]] void Bad(const std::string& message);

// "[2, 3, 4]", for messages.
std::string ShapeOf(const pybind11::array& array);
DType DTypeOf(const char* argument, const pybind11::array& array);
// An array that a kernel can read in place: aligned, columns contiguous; else a copy of it.
pybind11::array Readable(const pybind11::array& array);

// Q, K or V as it came, with the dimensions that it lacks in front taken as 1.
struct Argument {
  pybind11::array array;
  DType dtype;
  Index batch, heads, rows, columns;

  Argument(const char* name, const pybind11::object& object);
  Index Size(int from_end) const;
  Index Stride(int from_end) const;  // in elements
  ConstTensor View() const { return {array.data(), dtype, Stride(4), Stride(3), Stride(2)}; }
};

// A float32 array of the trainable scores, contiguous.
pybind11::array Weight(const char* name, const pybind11::object& object,
                       const std::vector<Index>& shape);

using MaybeIndex = std::optional<Index>;

// tiles: None, or bool [rows, columns] of tiles with `tile` queries and keys each.
Mask MakeMask(bool causal, const std::optional<std::string>& pattern, MaybeIndex window,
              MaybeIndex stride, MaybeIndex offset, MaybeIndex columns, Index sinks,
              MaybeIndex tile = {}, const pybind11::object& tiles = pybind11::none());

}  // namespace attnbench
