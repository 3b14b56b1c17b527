// SPDX-License-Identifier: Apache-2.0
// Axes of an experiment: named lists of values, the fields of a case that they set, and their
// product. Values come from TOML lists, from ranges ("256:8192:*2", "16:64:+16"; the end is
// included when it is hit) and from -a 'keys=256:4096:*2'.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "harness/case.h"

namespace attnbench {

using Value = std::variant<bool, std::int64_t, double, std::string>;
std::string Text(const Value& value);

// What an error points at: "FILE:LINE" or "-a 'keys=...'".
struct Axis {
  std::string field;
  std::vector<Value> values;
  std::string where;
};

// Empty, or what is wrong with the range.
std::string ParseRange(const std::string& text, std::vector<Value>* values);
// "keys=256:4096:*2", "dtype=f32,bf16". Throws UserError.
Axis ParseAxisArgument(const std::string& argument);

// Fields that an axis (or a [[kernel]] entry) may set, in the order in which they are applied.
bool IsCaseField(const std::string& field);
bool IsMaskField(const std::string& field);
std::string CaseFieldNames();  // for error messages
// Sets one field of a case. Empty, or what is wrong with the value.
std::string SetCaseField(const std::string& field, const Value& value, Case* c);
// Order of application: a later field may depend on an earlier one (out_dtype on dtype).
int CaseFieldRank(const std::string& field);

// A point of the product: an index into each axis.
using Point = std::vector<std::size_t>;
// All points, the last axis fastest. Axes of one zip group advance together; the group's axes must
// be of one length (checked by the caller).
std::vector<Point> Product(const std::vector<Axis>& axes,
                           const std::vector<std::vector<std::string>>& zips);

}  // namespace attnbench
