// SPDX-License-Identifier: Apache-2.0
#include "harness/experiment_file.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "harness/root.h"
#include "harness/user_error.h"

namespace attnbench {
namespace {

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  ExperimentFile Read() {
    ExperimentFile file;
    file.path = path_;
    file.text = Slurp();
    toml::table root;
    try {
      root = toml::parse(file.text, path_);
    } catch (const toml::parse_error& e) {
      throw UserError(path_ + ":" + std::to_string(e.source().begin.line) +
                      ": not valid TOML: " + std::string(e.description()));
    }
    for (auto&& [key, node] : root) {
      const std::string name(key.str());
      if (name == "title") {
        file.title = String(name, node);
      } else if (name == "description") {
        file.description = String(name, node);
      } else if (name == "sweep") {
        for (auto&& [field, value] : Table(name, node)) Setting(field, value, &file.settings);
      } else if (name == "axes") {
        for (auto&& [field, value] : Table(name, node)) AxisField(field, value, &file);
      } else if (name == "input") {
        ReadInput(Table(name, node), &file.input);
      } else if (name == "kernel") {
        const toml::array* entries = node.as_array();
        if (!entries || !entries->is_array_of_tables())
          Fail(node, name, "must be an array of tables: write [[kernel]]");
        for (auto&& entry : *entries) ReadKernels(*entry.as_table(), &file.kernels);
      } else {
        Fail(node, name, "unknown field (known: title, description, sweep, axes, input, kernel)");
      }
    }
    if (file.kernels.empty()) throw UserError(path_ + ":1: kernel: no [[kernel]] is given");
    return file;
  }

 private:
  std::string Slurp() const {
    std::error_code error;
    if (std::filesystem::is_directory(path_, error)) throw UserError(path_ + ": is a folder");
    std::ifstream in(path_);
    if (!in) throw UserError(path_ + ": cannot be read: no such experiment file");
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  }

  std::string Where(const toml::node& node) const {
    return path_ + ":" + std::to_string(node.source().begin.line);
  }
  [[noreturn]] void Fail(const toml::node& node, const std::string& field,
                         const std::string& message) const {
    throw UserError(Where(node) + ": " + field + ": " + message);
  }

  std::string String(const std::string& field, const toml::node& node) const {
    if (const auto* text = node.as_string()) return text->get();
    Fail(node, field, "must be a string");
  }
  std::int64_t Integer(const std::string& field, const toml::node& node, std::int64_t low) const {
    const auto* value = node.as_integer();
    if (!value) Fail(node, field, "must be an integer");
    if (value->get() < low)
      Fail(node, field,
           "must be at least " + std::to_string(low) + ", is " + std::to_string(value->get()));
    return value->get();
  }
  bool Flag(const std::string& field, const toml::node& node) const {
    if (const auto* flag = node.as_boolean()) return flag->get();
    Fail(node, field, "must be true or false");
  }
  // Finite, and at least `low`; 0 only where `low` is 0.
  double Number(const std::string& field, const toml::node& node, double low) const {
    if (!node.is_number()) Fail(node, field, "must be a number");
    const double value = *node.value<double>();
    if (!std::isfinite(value) || value < low || (low > 0 && value <= 0))
      Fail(node, field, low > 0 ? "must be positive and finite" : "must be finite and at least 0");
    return value;
  }
  const toml::table& Table(const std::string& field, const toml::node& node) const {
    if (const auto* table = node.as_table()) return *table;
    Fail(node, field, "must be a table");
  }

  void Setting(const toml::key& key, const toml::node& node, SweepSettings* s) const {
    const std::string name(key.str()), field = "sweep." + name;
    constexpr double kPositive = 1e-9;
    if (name == "rounds") {
      s->rounds = static_cast<int>(std::min<std::int64_t>(Integer(field, node, 1), 1000000));
    } else if (name == "isolation") {
      s->isolation = String(field, node);
      if (s->isolation != "case" && s->isolation != "problem")
        Fail(node, field, "must be 'case' or 'problem', is '" + s->isolation + "'");
    } else if (name == "budget_s") {
      s->budget_s = Number(field, node, 0);
    } else if (name == "seed") {
      s->seed = static_cast<std::uint64_t>(Integer(field, node, 0));
    } else if (name == "target_interval") {
      s->target_interval = Number(field, node, kPositive);
    } else if (name == "max_seconds_per_case") {
      s->max_seconds_per_case = Number(field, node, kPositive);
    } else if (name == "timeout_s") {
      s->timeout_s = Number(field, node, kPositive);
    } else if (name == "run_cap_s") {
      s->run_cap_s = Number(field, node, kPositive);
    } else if (name == "memory_budget_gib") {
      s->memory_budget_gib = Number(field, node, 0);
    } else if (name == "check_rows") {
      s->check_rows = Integer(field, node, 0);
    } else if (name == "plateau") {
      s->plateau = Flag(field, node);
    } else if (name == "repeat_slowed") {
      s->repeat_slowed = Flag(field, node);
    } else {
      std::string known;
      const auto fields = ToJson(SweepSettings{});
      for (const auto& item : fields.items()) known += (known.empty() ? "" : ", ") + item.key();
      Fail(node, field, "unknown field (known: " + known + ")");
    }
  }

  Value Scalar(const std::string& field, const toml::node& node) const {
    if (const auto* flag = node.as_boolean()) return flag->get();
    if (const auto* integer = node.as_integer()) return integer->get();
    if (const auto* number = node.as_floating_point()) return number->get();
    if (const auto* text = node.as_string()) return text->get();
    Fail(node, field, "must be a number, true, false, a name, or a list of them");
  }

  // A scalar, a list, or a range.
  Axis Values(const std::string& field, const toml::node& node) const {
    Axis axis{field, {}, Where(node)};
    if (const auto* list = node.as_array()) {
      if (list->empty()) Fail(node, field, "is an empty list");
      for (auto&& item : *list) axis.values.push_back(Scalar(field, item));
    } else if (const auto* text = node.as_string();
               text && text->get().find(':') != text->get().npos) {
      if (std::string e = ParseRange(text->get(), &axis.values); !e.empty()) Fail(node, field, e);
    } else {
      axis.values.push_back(Scalar(field, node));
    }
    return axis;
  }

  Axis CaseAxis(const std::string& field, const toml::node& node) const {
    if (!IsCaseField(field)) Fail(node, field, "unknown field (known: " + CaseFieldNames() + ")");
    Axis axis = Values(field, node);
    Case scratch;  // a value of the wrong type is reported before anything is expanded
    for (const Value& value : axis.values)
      if (std::string e = SetCaseField(field, value, &scratch); !e.empty()) Fail(node, field, e);
    return axis;
  }

  void AxisField(const toml::key& key, const toml::node& node, ExperimentFile* file) const {
    const std::string name(key.str());
    if (name != "zip") {
      file->axes.push_back(CaseAxis(name, node));
      return;
    }
    file->zip_where = Where(node);
    const auto* groups = node.as_array();
    if (!groups) Fail(node, name, "must be a list of lists of axis names");
    for (auto&& group : *groups) {
      const auto* names = group.as_array();
      if (!names || !names->is_homogeneous(toml::node_type::string))
        Fail(group, name, "must be a list of lists of axis names");
      std::vector<std::string>& zip = file->zips.emplace_back();
      for (auto&& item : *names) zip.push_back(item.as_string()->get());
    }
  }

  // Paths are taken from the current folder, or else from the source tree's.
  static std::string Locate(const std::string& path) {
    std::error_code error;
    if (std::filesystem::exists(path, error)) return path;
    const std::string in_tree = Root() + "/" + path;
    return std::filesystem::exists(in_tree, error) ? in_tree : path;
  }

  void ReadInput(const toml::table& table, InputSpec* input) const {
    std::string model, text;
    for (auto&& [key, node] : table) {
      const std::string name(key.str()), field = "input." + name;
      if (name == "kind") {
        input->kind = String(field, node);
        if (!KnownInputKind(input->kind))
          Fail(node, field,
               "must be 'gaussian', 'outliers', 'calibrated' or 'tensors', is '" + input->kind +
                   "'");
      } else if (name == "logit_scale") {
        input->logit_scale = Number(field, node, 0);
      } else if (name == "file") {
        input->file = String(field, node);
      } else if (name == "model") {
        model = String(field, node);
      } else if (name == "text") {
        text = String(field, node);
      } else {
        Fail(node, field, "unknown field (known: kind, logit_scale, file, model, text)");
      }
    }
    if (input->kind != "tensors") {
      if (!input->file.empty() || !model.empty() || !text.empty())
        Fail(table, "input", "file, model and text belong to kind = \"tensors\"");
      return;
    }
    if (input->file.empty()) {
      if (model.empty() || text.empty())
        Fail(table, "input", "kind = \"tensors\" needs a file, or a model and a text");
      input->file = "build/tensors/" + model + "-" + std::filesystem::path(text).stem().string() +
                    ".safetensors";
    }
    input->file = Locate(input->file);
  }

  std::vector<std::string> Strings(const std::string& field, const toml::node& node,
                                   const char* what) const {
    const auto* list = node.as_array();
    if (!list || list->empty() || !list->is_homogeneous(toml::node_type::string))
      Fail(node, field, what);
    std::vector<std::string> strings;
    for (auto&& item : *list) strings.push_back(item.as_string()->get());
    return strings;
  }

  // One entry a name.
  void ReadKernels(const toml::table& table, std::vector<KernelEntry>* entries) const {
    KernelEntry entry;
    std::vector<std::string> kernels;
    entry.where = Where(table);
    for (auto&& [key, node] : table) {
      const std::string name(key.str());
      if (name == "name") {
        if (node.is_array())
          kernels = Strings(name, node, "must be a name or a list of names");
        else
          kernels = {String(name, node)};
        entry.where = Where(node);
      } else if (name == "options") {
        for (auto&& [option, value] : Table(name, node))
          entry.axes.push_back(
              Values(std::string(kOptionPrefix) + std::string(option.str()), value));
      } else if (name == "mask") {
        for (auto&& [field, value] : Table(name, node)) {
          if (!IsMaskField(std::string(field.str())))
            Fail(value, "mask." + std::string(field.str()),
                 "unknown field (known: pattern, window, stride, offset, columns, sinks, tile, "
                 "band, dilation, global_tiles, random_tiles, causal)");
          entry.axes.push_back(CaseAxis(std::string(field.str()), value));
        }
      } else if (name == "where") {
        for (auto&& [field, value] : Table(name, node))
          entry.filters.push_back(CaseAxis(std::string(field.str()), value));
      } else if (name == "except") {
        entry.except = Strings(name, node, "must be a list of kernel names");
      } else {
        entry.axes.push_back(CaseAxis(name, node));
      }
    }
    if (kernels.empty()) Fail(table, "name", "missing in [[kernel]]");
    for (const std::string& name : kernels) {
      entries->push_back(entry);
      entries->back().name = name;
    }
  }

  const std::string path_;
};

}  // namespace

ExperimentFile ReadExperimentFile(const std::string& path) { return Reader(path).Read(); }

}  // namespace attnbench
