// SPDX-License-Identifier: Apache-2.0
#include "harness/axis.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <type_traits>

#include "harness/user_error.h"

namespace attnbench {
namespace {

constexpr std::size_t kMaxValues = 10000;

bool ParseInteger(std::string_view text, std::int64_t* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

Value ParseScalar(const std::string& text) {
  if (text == "true") return true;
  if (text == "false") return false;
  if (std::int64_t integer; ParseInteger(text, &integer)) return integer;
  double number;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size()) return number;
  return text;
}

using Setter = std::function<std::string(const Value&, Case*)>;

// Integers of at least `low`.
Setter Integer(Index low, Index& (*at)(Case*)) {
  return [low, at](const Value& value, Case* c) -> std::string {
    const auto* integer = std::get_if<std::int64_t>(&value);
    if (!integer) return "must be an integer, is '" + Text(value) + "'";
    if (*integer < low)
      return "must be at least " + std::to_string(low) + ", is " + std::to_string(*integer);
    at(c) = *integer;
    return "";
  };
}

// Counts of 1 ... `most`.
Setter Count(int most, int& (*at)(Case*)) {
  return [most, at](const Value& value, Case* c) -> std::string {
    const auto* integer = std::get_if<std::int64_t>(&value);
    if (!integer || *integer < 1 || *integer > most)
      return "must be an integer in 1 ... " + std::to_string(most) + ", is '" + Text(value) + "'";
    at(c) = static_cast<int>(*integer);
    return "";
  };
}

Setter Number(double& (*at)(Case*)) {
  return [at](const Value& value, Case* c) -> std::string {
    if (const auto* integer = std::get_if<std::int64_t>(&value)) {
      at(c) = static_cast<double>(*integer);
    } else if (const auto* number = std::get_if<double>(&value)) {
      at(c) = *number;
    } else {
      return "must be a number, is '" + Text(value) + "'";
    }
    return "";
  };
}

Setter Boolean(bool& (*at)(Case*)) {
  return [at](const Value& value, Case* c) -> std::string {
    const auto* flag = std::get_if<bool>(&value);
    if (!flag) return "must be true or false, is '" + Text(value) + "'";
    at(c) = *flag;
    return "";
  };
}

template <class Enum>
Setter Named(Enum& (*at)(Case*)) {
  return [at](const Value& value, Case* c) -> std::string {
    const auto* name = std::get_if<std::string>(&value);
    if (name && Parse(*name, &at(c))) return "";
    std::string known;
    constexpr int kNames = std::is_same_v<Enum, DType> ? 3 : std::is_same_v<Enum, Encoding> ? 5 : 6;
    for (int i = 0; i < kNames; ++i)
      known += (i ? ", " : "") + std::string(Name(static_cast<Enum>(i)));
    return "unknown name '" + Text(value) + "' (known: " + known + ")";
  };
}

std::string SetCache(const Value& value, Case* c) {
  if (Text(value) != "warm" && Text(value) != "cold")
    return "must be 'warm' or 'cold', is '" + Text(value) + "'";
  c->cache = Text(value);
  return "";
}

// A layer is known by its name: saying so makes the file plainer.
std::string SetKind(const Value& value, Case* c) {
  if (Text(value) != "attention" && Text(value) != "layer")
    return "must be 'attention' or 'layer', is '" + Text(value) + "'";
  c->kind = Text(value);
  return "";
}

std::string SetInnerKernel(const Value& value, Case* c) {
  const auto* name = std::get_if<std::string>(&value);
  if (!name) return "must be the name of a kernel, is '" + Text(value) + "'";
  const Kernel* kernel = FindKernel(*name);
  if (*name != LayerShape::kAuto && (!kernel || kernel->layer))
    return "must be 'auto' or an attention kernel, is '" + *name + "'";
  c->problem.layer.attention = *name;
  return "";
}

std::string SetDType(const Value& value, Case* c) {
  const Setter set = Named<DType>([](Case* k) -> DType& { return k->problem.dtype; });
  std::string error = set(value, c);
  c->problem.out_dtype = c->problem.dtype;  // unless out_dtype, applied later, says otherwise
  return error;
}

struct Field {
  const char* name;
  Setter set;
  bool mask = false;
};

const std::vector<Field>& Fields() {
  static const std::vector<Field> fields = {
      {"kind", SetKind},
      {"batch", Integer(1, [](Case* c) -> Index& { return c->problem.batch; })},
      {"heads", Integer(1, [](Case* c) -> Index& { return c->problem.heads; })},
      {"kv_heads", Integer(1, [](Case* c) -> Index& { return c->problem.kv_heads; })},
      {"queries", Integer(1, [](Case* c) -> Index& { return c->problem.queries; })},
      {"keys", Integer(1, [](Case* c) -> Index& { return c->problem.keys; })},
      {"head_dim", Integer(1, [](Case* c) -> Index& { return c->problem.head_dim; })},
      {"v_dim", Integer(1, [](Case* c) -> Index& { return c->problem.v_dim; })},
      {"d_model", Integer(1, [](Case* c) -> Index& { return c->problem.layer.d_model; })},
      {"d_out", Integer(1, [](Case* c) -> Index& { return c->problem.layer.d_out; })},
      {"width", Integer(1, [](Case* c) -> Index& { return c->problem.layer.width; })},
      {"encoding", Named<Encoding>([](Case* c) -> Encoding& { return c->problem.layer.encoding; })},
      {"cross", Boolean([](Case* c) -> bool& { return c->problem.layer.cross; })},
      {"attention", SetInnerKernel},
      {"hidden", Integer(1, [](Case* c) -> Index& { return c->problem.hidden; })},
      {"dtype", SetDType},
      {"out_dtype", Named<DType>([](Case* c) -> DType& { return c->problem.out_dtype; })},
      {"score", Named<Score>([](Case* c) -> Score& { return c->problem.score; })},
      {"scale", Number([](Case* c) -> double& { return c->problem.scale; })},
      {"softcap", Number([](Case* c) -> double& { return c->problem.softcap; })},
      {"bias", Boolean([](Case* c) -> bool& { return c->problem.has_bias; })},
      {"key_lengths", Boolean([](Case* c) -> bool& { return c->problem.has_key_lengths; })},
      {"centers", Boolean([](Case* c) -> bool& { return c->problem.has_centers; })},
      {"pattern",
       Named<Mask::Pattern>([](Case* c) -> Mask::Pattern& { return c->problem.mask.pattern; }),
       true},
      {"window", Integer(1, [](Case* c) -> Index& { return c->problem.mask.window; }), true},
      {"stride", Integer(1, [](Case* c) -> Index& { return c->problem.mask.stride; }), true},
      {"offset", Integer(0, [](Case* c) -> Index& { return c->problem.mask.offset; }), true},
      {"columns", Integer(1, [](Case* c) -> Index& { return c->problem.mask.columns; }), true},
      {"sinks", Integer(0, [](Case* c) -> Index& { return c->problem.mask.sinks; }), true},
      {"tile", Integer(1, [](Case* c) -> Index& { return c->tiles.tile; }), true},
      {"band", Integer(0, [](Case* c) -> Index& { return c->tiles.band; }), true},
      {"dilation", Integer(1, [](Case* c) -> Index& { return c->tiles.dilation; }), true},
      {"global_tiles", Integer(0, [](Case* c) -> Index& { return c->tiles.global_tiles; }), true},
      {"random_tiles", Integer(0, [](Case* c) -> Index& { return c->tiles.random_tiles; }), true},
      {"causal", Boolean([](Case* c) -> bool& { return c->problem.mask.causal; }), true},
      {"threads", Count(4096, [](Case* c) -> int& { return c->threads; })},
      {"ranks", Count(65536, [](Case* c) -> int& { return c->ranks; })},
      {"cache", SetCache},
      {"layer", Integer(0, [](Case* c) -> Index& { return c->input.layer; })},
      {"head", Integer(0, [](Case* c) -> Index& { return c->input.head; })},
      {"logit_scale", Number([](Case* c) -> double& { return c->input.logit_scale; })},
  };
  return fields;
}

const Field* FindField(const std::string& name) {
  for (const Field& field : Fields())
    if (name == field.name) return &field;
  return nullptr;
}

}  // namespace

std::string Text(const Value& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return std::to_string(*integer);
  if (const auto* number = std::get_if<double>(&value)) return nlohmann::json(*number).dump();
  return std::get<std::string>(value);
}

std::string ParseRange(const std::string& text, std::vector<Value>* values) {
  const std::string form = "range '" + text + "': ";
  const std::size_t first = text.find(':');
  const std::size_t second = text.find(':', first + 1);
  std::int64_t begin = 0, end = 0, step = 0;
  if (second == std::string::npos || second + 2 > text.size() ||
      (text[second + 1] != '*' && text[second + 1] != '+') ||
      !ParseInteger(std::string_view(text).substr(0, first), &begin) ||
      !ParseInteger(std::string_view(text).substr(first + 1, second - first - 1), &end) ||
      !ParseInteger(std::string_view(text).substr(second + 2), &step))
    return form + "must read BEGIN:END:*FACTOR or BEGIN:END:+STEP, in integers";
  const bool geometric = text[second + 1] == '*';
  if (begin > end) return form + "begins beyond its end";
  if (geometric && (step < 2 || begin < 1))
    return form + "needs a factor of at least 2 and a positive begin";
  if (!geometric && step < 1) return form + "needs a step of at least 1";
  for (std::int64_t value = begin;;) {
    values->push_back(value);
    if (values->size() > kMaxValues) return form + "has more than 10000 values";
    if (geometric ? value > end / step : value > end - step) return "";
    value = geometric ? value * step : value + step;
  }
}

Axis ParseAxisArgument(const std::string& argument) {
  const std::string where = "-a '" + argument + "'";
  const std::size_t equals = argument.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == argument.size())
    throw UserError(where + ": must read FIELD=VALUES, as keys=256:4096:*2 or head_dim=32,64");
  Axis axis{argument.substr(0, equals), {}, where};
  if (!IsCaseField(axis.field))
    throw UserError(where + ": " + axis.field + ": unknown axis (known: " + CaseFieldNames() + ")");
  const std::string list = argument.substr(equals + 1);
  if (list.find(':') != std::string::npos) {
    if (std::string e = ParseRange(list, &axis.values); !e.empty())
      throw UserError(where + ": " + axis.field + ": " + e);
    return axis;
  }
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    axis.values.push_back(ParseScalar(list.substr(begin, end - begin)));
    begin = end + 1;
  }
  return axis;
}

bool IsCaseField(const std::string& field) { return FindField(field) != nullptr; }

bool IsMaskField(const std::string& field) {
  const Field* found = FindField(field);
  return found && found->mask;
}

std::string CaseFieldNames() {
  std::string names;
  for (const Field& field : Fields())
    names += (names.empty() ? "" : ", ") + std::string(field.name);
  return names;
}

int CaseFieldRank(const std::string& field) {
  const Field* found = FindField(field);
  return found ? static_cast<int>(found - Fields().data()) : static_cast<int>(Fields().size());
}

std::string SetCaseField(const std::string& field, const Value& value, Case* c) {
  return FindField(field)->set(value, c);
}

std::vector<Point> Product(const std::vector<Axis>& axes,
                           const std::vector<std::vector<std::string>>& zips) {
  // The first axis of a zip group leads; the others follow its index.
  std::vector<std::size_t> leader(axes.size());
  for (std::size_t i = 0; i < axes.size(); ++i) {
    leader[i] = i;
    for (const auto& zip : zips) {
      if (std::find(zip.begin(), zip.end(), axes[i].field) == zip.end()) continue;
      for (std::size_t j = 0; j < i; ++j)
        if (leader[i] == i && std::find(zip.begin(), zip.end(), axes[j].field) != zip.end())
          leader[i] = j;
    }
  }
  std::vector<Point> points;
  Point point(axes.size(), 0);
  for (;;) {
    for (std::size_t i = 0; i < axes.size(); ++i) point[i] = point[leader[i]];
    points.push_back(point);
    std::size_t i = axes.size();
    for (; i > 0; --i) {
      if (leader[i - 1] != i - 1) continue;
      if (++point[i - 1] < axes[i - 1].values.size()) break;
      point[i - 1] = 0;
    }
    if (i == 0) return points;
  }
}

}  // namespace attnbench
