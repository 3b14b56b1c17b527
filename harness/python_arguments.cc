// SPDX-License-Identifier: Apache-2.0
#include "harness/python_arguments.h"

#include <sstream>

namespace attnbench {

namespace py = pybind11;

constexpr Index kLargest = Index{1} << 40;  // positions plus windows stay far from overflow

[[noreturn]] void Bad(const std::string& message) { throw py::value_error(message); }

std::string ShapeOf(const py::array& array) {
  std::ostringstream text;
  text << "[";
  for (py::ssize_t i = 0; i < array.ndim(); ++i) text << (i ? ", " : "") << array.shape(i);
  text << "]";
  return text.str();
}

DType DTypeOf(const char* argument, const py::array& array) {
  const std::string name = py::str(array.dtype());
  if (name == "float32") return DType::kF32;
  if (name == "bfloat16") return DType::kBF16;
  Bad(std::string(argument) + ": dtype must be float32 or bfloat16, is " + name);
}

py::array Readable(const py::array& array) {
  const bool columns_contiguous =
      array.shape(array.ndim() - 1) == 1 || array.strides(array.ndim() - 1) == array.itemsize();
  bool whole_elements = true;
  for (py::ssize_t i = 0; i < array.ndim(); ++i)
    whole_elements &= array.strides(i) % array.itemsize() == 0;
  if (columns_contiguous && whole_elements && array.attr("flags").attr("aligned").cast<bool>())
    return array;
  return py::module_::import("numpy").attr("ascontiguousarray")(array);
}

Argument::Argument(const char* name, const py::object& object) {
  array = py::module_::import("numpy").attr("asarray")(object);
  if (array.ndim() < 2 || array.ndim() > 4)
    Bad(std::string(name) + ": must be [batch, heads, n, d], [heads, n, d] or [n, d], is " +
        ShapeOf(array));
  dtype = DTypeOf(name, array);
  for (py::ssize_t i = 0; i < array.ndim(); ++i)
    if (array.shape(i) == 0) Bad(std::string(name) + ": is empty, " + ShapeOf(array));
  array = Readable(array);
  columns = Size(1), rows = Size(2), heads = Size(3), batch = Size(4);
}

Index Argument::Size(int from_end) const {
  return from_end <= array.ndim() ? array.shape(array.ndim() - from_end) : 1;
}

Index Argument::Stride(int from_end) const {
  return from_end <= array.ndim()
             ? array.strides(array.ndim() - from_end) / static_cast<Index>(array.itemsize())
             : 0;
}

py::array Weight(const char* name, const py::object& object, const std::vector<Index>& shape) {
  if (object.is_none()) Bad(std::string(name) + ": this score needs it");
  const auto numpy = py::module_::import("numpy");
  py::array array = numpy.attr("asarray")(object);
  if (DTypeOf(name, array) != DType::kF32) Bad(std::string(name) + ": dtype must be float32");
  bool same = array.ndim() == static_cast<py::ssize_t>(shape.size());
  for (std::size_t i = 0; same && i < shape.size(); ++i) same = array.shape(i) == shape[i];
  if (!same) {
    std::ostringstream text;
    text << name << ": must be [";
    for (std::size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "") << shape[i];
    text << "], is " << ShapeOf(array);
    Bad(text.str());
  }
  return numpy.attr("ascontiguousarray")(array);
}

namespace {

std::shared_ptr<const TileList> TilesOf(const py::object& object, Index tile) {
  const py::array array = py::module_::import("numpy").attr("asarray")(object);
  if (array.ndim() != 2 || std::string(py::str(array.dtype())) != "bool")
    Bad("tiles: must be bool [rows, columns], is " + std::string(py::str(array.dtype())) + " " +
        ShapeOf(array));
  if (tile < 1 || tile > kLargest) Bad("tile: must be at least 1, and not too large");
  auto list = std::make_shared<TileList>();
  list->query_tile = list->key_tile = tile;
  list->row_begin.push_back(0);
  const auto admitted = array.cast<py::array_t<bool>>().unchecked<2>();
  for (py::ssize_t row = 0; row < admitted.shape(0); ++row) {
    for (py::ssize_t column = 0; column < admitted.shape(1); ++column)
      if (admitted(row, column)) list->column.push_back(column);
    list->row_begin.push_back(std::ssize(list->column));
  }
  return list;
}

}  // namespace

Mask MakeMask(bool causal, const std::optional<std::string>& pattern, MaybeIndex window,
              MaybeIndex stride, MaybeIndex offset, MaybeIndex columns, Index sinks,
              MaybeIndex tile, const py::object& tiles) {
  Mask mask;
  if (sinks > kLargest) Bad("sinks: too large");
  mask.causal = causal, mask.sinks = sinks;
  const std::string name = pattern             ? *pattern
                           : !tiles.is_none()  ? "tiles"
                           : window && !stride ? "local"
                                               : "full";
  if (!Parse(name, &mask.pattern))
    Bad("pattern: must be 'full', 'local', 'strided', 'columns', 'fixed' or 'tiles', is '" + name +
        "'");
  const bool tiled = mask.pattern == Mask::Pattern::kTiles;
  if (tiled != !tiles.is_none())
    Bad(tiled ? "tiles: pattern 'tiles' needs them" : "tiles: pattern '" + name + "' has none");
  if (tiled != tile.has_value())
    Bad(tiled ? "tile: pattern 'tiles' needs it" : "tile: pattern '" + name + "' does not use it");
  if (tiled) mask.tiles = TilesOf(tiles, *tile);
  const auto take = [&](const char* argument, MaybeIndex value, bool used, Index* field) {
    if (value && !used) Bad(std::string(argument) + ": pattern '" + name + "' does not use it");
    if (value && *value > kLargest) Bad(std::string(argument) + ": too large");
    if (value) *field = *value;
  };
  using enum Mask::Pattern;
  const auto p = mask.pattern;
  take("window", window, p == kLocal || p == kStrided || p == kColumns, &mask.window);
  take("stride", stride, p == kStrided || p == kColumns || p == kFixed, &mask.stride);
  take("offset", offset, p == kColumns, &mask.offset);
  take("columns", columns, p == kFixed, &mask.columns);
  return mask;
}

}  // namespace attnbench
