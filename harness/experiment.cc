// SPDX-License-Identifier: Apache-2.0
#include "harness/experiment.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "harness/calibrated_inputs.h"
#include "harness/experiment_file.h"
#include "harness/inputs.h"
#include "harness/machine.h"
#include "harness/predict.h"
#include "harness/tensor_file.h"
#include "harness/user_error.h"

namespace attnbench {
namespace {

// Which kernels an entry stands for.
std::vector<std::string> Names(const KernelEntry& entry, const std::set<std::string>& named) {
  if (entry.name != "*") return {entry.name};
  std::vector<std::string> names;
  for (const Kernel* kernel : Kernels()) {
    const std::string name(kernel->name);
    if (!named.count(name) &&
        std::find(entry.except.begin(), entry.except.end(), name) == entry.except.end())
      names.push_back(name);
  }
  return names;
}

const Axis* Find(const std::vector<Axis>& axes, const std::string& field) {
  for (const Axis& axis : axes)
    if (axis.field == field) return &axis;
  return nullptr;
}

// The axes of one entry: the file's, replaced by the entry's own, replaced by -a.
std::vector<Axis> AxesOf(const ExperimentFile& file, const KernelEntry& entry,
                         const std::vector<Axis>& overrides) {
  std::vector<Axis> axes;
  for (const Axis& axis : file.axes)
    if (!Find(entry.axes, axis.field)) axes.push_back(axis);
  axes.insert(axes.end(), entry.axes.begin(), entry.axes.end());
  const bool masked = Find(axes, "pattern") || Find(overrides, "pattern");
  for (const Axis& override_ : overrides) {
    bool replaced = false;
    for (Axis& axis : axes) {
      if (axis.field != override_.field) continue;
      axis = override_;
      replaced = true;
    }
    // A window is meant for the kernels that have a mask; sizes are meant for all.
    if (!replaced && (masked || !IsMaskField(override_.field) || override_.field == "causal" ||
                      override_.field == "sinks"))
      axes.push_back(override_);
  }
  return axes;
}

// A mask field that the pattern ignores would make two cases of one: most likely a slip.
std::string UnusedMaskField(const Mask& mask, const std::vector<Axis>& axes) {
  using P = Mask::Pattern;
  const P p = mask.pattern;
  const std::pair<const char*, bool> uses[] = {
      {"window", p == P::kLocal || p == P::kStrided || p == P::kColumns},
      {"stride", p == P::kStrided || p == P::kColumns || p == P::kFixed},
      {"offset", p == P::kColumns},
      {"columns", p == P::kFixed},
      {"tile", p == P::kTiles},
      {"band", p == P::kTiles},
      {"dilation", p == P::kTiles},
      {"global_tiles", p == P::kTiles},
      {"random_tiles", p == P::kTiles},
  };
  for (const auto& [field, used] : uses)
    if (!used && Find(axes, field))
      return std::string(field) + ": pattern '" + Name(p) + "' has no " + field;
  return "";
}

// Fills in the list of tiles. Empty, or what is wrong.
std::string MakeMaskTiles(const std::vector<Axis>& axes, Case* c) {
  Problem& p = c->problem;
  if (std::string e = UnusedMaskField(p.mask, axes); !e.empty()) return e;
  if (p.mask.pattern != Mask::Pattern::kTiles) return "";
  p.Resolve();
  if (std::string e = Invalid(c->tiles, p.queries, p.keys); !e.empty()) return e;
  p.mask.tiles = SharedTiles(c->tiles, p.queries, p.keys, p.mask.causal);
  return "";
}

// No kernel can run what does not fit as tensors: a slip of the user's, not a result.
std::string Oversized(const Case& c, double limit) {
  const Kernel* kernel = FindKernel(c.kernel);
  const Problem& problem = c.problem;
  Options options;
  if (kernel) ResolveOptions(c, *kernel, &options);
  const double bytes = TensorBytes(kernel, problem, options);
  if (bytes <= limit) return "";
  return std::string(problem.keys >= problem.queries ? "keys" : "queries") +
         ": the tensors alone take " + FormatBytes(bytes) + ", the machine has " +
         FormatBytes(limit);
}

// Sizes that must be given, and the kind against the registry's; sets the kind. Empty, or what is
// wrong, beginning with the field's name.
std::string Unfit(const Kernel* kernel, const std::vector<Axis>& axes, Case* c) {
  const bool layer = kernel && kernel->layer;
  const std::string name = "'" + c->kernel + "'";
  if (Find(axes, "kind") && layer != (c->kind == "layer"))
    return "kind: " + name + (layer ? " is a layer" : " is an attention kernel");
  c->kind = layer ? "layer" : "attention";
  if (c->problem.keys == 0 && c->problem.queries == 0)
    return "axes.keys: missing (give keys or queries)";
  if (layer && !c->problem.layer) return "axes.d_model: missing (" + name + " is a layer)";
  if (layer && (c->input.kind == "tensors" || c->input.kind == "calibrated"))
    return "input: layers take random sequences, not '" + c->input.kind + "'";
  if (layer) return "";
  for (const char* field : {"d_model", "d_out", "width", "encoding", "cross", "attention"})
    if (Find(axes, field)) return std::string(field) + ": " + name + " is no layer";
  if (c->problem.head_dim == 0) return "axes.head_dim: missing";
  if (c->input.kind != "calibrated") return "";
  if (c->problem.head_dim < kLeastCalibratedDim)
    return "head_dim: must be at least " + std::to_string(kLeastCalibratedDim) +
           " for calibrated inputs";
  const Index table = std::ssize(CalibratedHeads());
  if (c->input.head >= table)
    return "head: calibrated inputs have " + std::to_string(table) + " heads";
  return "";
}

// "FILE:LINE" of the axis that set the field named at the head of the message, or the entry's.
std::string WhereOf(const std::string& message, const std::vector<Axis>& axes,
                    const std::string& fallback) {
  const Axis* axis = Find(axes, message.substr(0, message.find(':')));
  return axis ? axis->where : fallback;
}

class Expansion {
 public:
  Expansion(const ExperimentFile& file, const Overrides& overrides) : file_(file) {
    overrides_ = overrides.axes;
    base_.seed = file.settings.seed;
    base_.input = file.input;
    if (base_.input.kind == "tensors") {
      tensors_ = DescribeTensorFile(base_.input.file);
      base_.input.content = tensors_.content;
    }
  }

  void Add(const std::string& kernel, const KernelEntry& entry, std::vector<Case>* cases) {
    CheckKernel(kernel, entry.where);
    const std::vector<Axis> axes = AxesOf(file_, entry, overrides_);
    CheckZips(axes);
    for (const Axis& filter : entry.filters)
      if (!Find(axes, filter.field))
        throw UserError(filter.where + ": where." + filter.field + ": is no axis of this kernel");
    for (const Point& point : Product(axes, file_.zips)) {
      if (!Admits(entry.filters, axes, point)) continue;
      Case c = Build(kernel, entry, axes, point);
      if (seen_.insert(Hash(c)).second) cases->push_back(std::move(c));
    }
  }

 private:
  void CheckZips(const std::vector<Axis>& axes) const {
    for (const auto& zip : file_.zips) {
      const Axis* first = nullptr;
      for (const std::string& field : zip) {
        const Axis* axis = Find(axes, field);
        if (!axis) throw UserError(file_.zip_where + ": zip: '" + field + "' is no axis");
        if (!first) first = axis;
        if (axis->values.size() != first->values.size())
          throw UserError(axis->where + ": " + axis->field + ": has " +
                          std::to_string(axis->values.size()) + " values, but " + first->field +
                          ", zipped with it, has " + std::to_string(first->values.size()));
      }
    }
  }

  static bool Admits(const std::vector<Axis>& filters, const std::vector<Axis>& axes,
                     const Point& point) {
    for (const Axis& filter : filters) {
      for (std::size_t i = 0; i < axes.size(); ++i) {
        if (axes[i].field != filter.field) continue;
        const Value& value = axes[i].values[point[i]];
        if (std::find(filter.values.begin(), filter.values.end(), value) == filter.values.end())
          return false;
      }
    }
    return true;
  }

  Case Build(const std::string& kernel, const KernelEntry& entry, const std::vector<Axis>& axes,
             const Point& point) const {
    Case c = base_;
    c.kernel = kernel;
    std::vector<std::size_t> order(axes.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return CaseFieldRank(axes[a].field) < CaseFieldRank(axes[b].field);
    });
    for (const std::size_t i : order) {
      const Axis& axis = axes[i];
      const Value& value = axis.values[point[i]];
      std::string error;
      if (axis.field.starts_with(kOptionPrefix)) {
        if (const auto* integer = std::get_if<std::int64_t>(&value))
          c.options[axis.field.substr(kOptionPrefix.size())] = *integer;
        else
          error = "must be an integer, is '" + Text(value) + "'";
      } else {
        error = SetCaseField(axis.field, value, &c);
      }
      if (!error.empty()) throw UserError(axis.where + ": " + axis.field + ": " + error);
    }
    if (c.input.kind == "tensors") TakeShape(axes, entry.where, &c);
    const Kernel* native = FindKernel(kernel);
    std::string error = Unfit(native, axes, &c);
    if (error.starts_with("axes.")) throw UserError(file_.path + ": " + error);
    const auto fail_on = [&](const std::string& wrong) {
      if (!wrong.empty()) throw UserError(WhereOf(wrong, axes, entry.where) + ": " + wrong);
    };
    fail_on(error);
    fail_on(MakeMaskTiles(axes, &c));
    fail_on(c.problem.Resolve().Invalid());
    if (native) ResolveAll(*native, axes, entry.where, &c);
    fail_on(Oversized(c, memory_bytes_));
    return c;
  }

  // Every option of the kernel is written into the case, so that a changed default is another case.
  static void ResolveAll(const Kernel& kernel, const std::vector<Axis>& axes,
                         const std::string& where, Case* c) {
    Options options;
    if (std::string e = ResolveOptions(*c, kernel, &options); !e.empty()) {
      for (const Axis& axis : axes)
        if (axis.field.starts_with(kOptionPrefix) &&
            e.find("'" + axis.field.substr(kOptionPrefix.size()) + "'") != std::string::npos)
          throw UserError(axis.where + ": options: " + e);
      throw UserError(where + ": options: " + e);
    }
    for (const Option& option : kernel.options) c->options[option.name] = options[option.name];
  }

  // Real tensors come with their shape; keys may cut them short.
  void TakeShape(const std::vector<Axis>& axes, const std::string& where, Case* c) const {
    Problem& p = c->problem;
    const bool one_head = Find(axes, "head") != nullptr;
    const std::tuple<const char*, Index*, Index> fixed[] = {
        {"head_dim", &p.head_dim, tensors_.head_dim}, {"v_dim", &p.v_dim, tensors_.v_dim}};
    for (const auto& [field, value, held] : fixed) {
      const Axis* axis = Find(axes, field);
      if (axis && *value != held)
        throw UserError(axis->where + ": " + field + ": the input file's is " +
                        std::to_string(held));
      *value = held;
    }
    if (!Find(axes, "heads")) p.heads = one_head ? 1 : tensors_.heads;
    if (p.keys == 0 && p.queries == 0) p.keys = tensors_.tokens;
    const auto require = [&](const char* field, Index value, Index limit) {
      if (value > limit)
        throw UserError(WhereOf(field, axes, where) + ": " + field + ": the input file holds " +
                        std::to_string(limit) + ", " + std::to_string(value) + " are asked for");
    };
    require("keys", std::max(p.keys, p.queries), tensors_.tokens);
    require("layer", c->input.layer + 1, tensors_.layers);
    require("heads", std::max<Index>(c->input.head, 0) + p.heads, tensors_.heads);
  }

  const ExperimentFile& file_;
  const double memory_bytes_ = static_cast<double>(MemoryLimitBytes());  // from files: read once
  std::vector<Axis> overrides_;
  Case base_;
  TensorFile tensors_;
  std::set<std::string> seen_;
};

}  // namespace

Experiment LoadExperiment(const std::string& path, const Overrides& overrides) {
  const ExperimentFile file = ReadExperimentFile(path);
  Experiment experiment;
  experiment.path = path;
  experiment.name = std::filesystem::path(path).stem();
  experiment.title = file.title;
  experiment.description = file.description;
  experiment.text = file.text;
  experiment.settings = file.settings;

  std::set<std::string> named;
  for (const KernelEntry& entry : file.kernels) named.insert(entry.name);
  Expansion expansion(file, overrides);
  const auto wanted = [&](const std::string& name) {
    return overrides.kernels.empty() ||
           std::find(overrides.kernels.begin(), overrides.kernels.end(), name) !=
               overrides.kernels.end();
  };
  std::set<std::string> used;
  for (const KernelEntry& entry : file.kernels) {
    for (const std::string& name : Names(entry, named)) {
      used.insert(name);
      if (wanted(name)) expansion.Add(name, entry, &experiment.cases);
    }
  }
  for (const std::string& name : overrides.kernels)
    if (used.insert(name).second)
      expansion.Add(name, {.name = name, .where = "-k " + name}, &experiment.cases);
  if (experiment.cases.empty()) throw UserError(path + ": asks for no case at all");
  return experiment;
}

nlohmann::json ToJson(const SweepSettings& s) {
  return {{"rounds", s.rounds},
          {"isolation", s.isolation},
          {"budget_s", s.budget_s},
          {"seed", s.seed},
          {"target_interval", s.target_interval},
          {"max_seconds_per_case", s.max_seconds_per_case},
          {"timeout_s", s.timeout_s},
          {"run_cap_s", s.run_cap_s},
          {"memory_budget_gib", s.memory_budget_gib},
          {"check_rows", s.check_rows},
          {"plateau", s.plateau},
          {"repeat_slowed", s.repeat_slowed}};
}

SweepSettings SweepSettingsFromJson(const nlohmann::json& j) {
  SweepSettings s;
  s.rounds = j.value("rounds", s.rounds);
  s.isolation = j.value("isolation", s.isolation);
  s.budget_s = j.value("budget_s", s.budget_s);
  s.seed = j.value("seed", s.seed);
  s.target_interval = j.value("target_interval", s.target_interval);
  s.max_seconds_per_case = j.value("max_seconds_per_case", s.max_seconds_per_case);
  s.timeout_s = j.value("timeout_s", s.timeout_s);
  s.run_cap_s = j.value("run_cap_s", s.run_cap_s);
  s.memory_budget_gib = j.value("memory_budget_gib", s.memory_budget_gib);
  s.check_rows = j.value("check_rows", s.check_rows);
  s.plateau = j.value("plateau", s.plateau);
  s.repeat_slowed = j.value("repeat_slowed", s.repeat_slowed);
  return s;
}

void CheckKernel(const std::string& name, const std::string& where) {
  if (FindKernel(name) || IsPeer(name)) return;
  std::string known;
  for (const Kernel* kernel : Kernels())
    known += (known.empty() ? "" : ", ") + std::string(kernel->name);
  for (const Kernel* layer : Layers()) known += ", " + std::string(layer->name);
  for (const std::string& peer : Peers()) known += ", " + peer;
  throw UserError(where + (where.starts_with("-k") ? ": " : ": name: ") + "unknown kernel '" +
                  name + "' (known: " + known + ")");
}

}  // namespace attnbench
