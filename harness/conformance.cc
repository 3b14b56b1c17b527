// SPDX-License-Identifier: Apache-2.0
// Runs edge cases through Check(): for the tests, and for `attnbench check`.
#include <chrono>
#include <cmath>
#include <cstring>
#include <exception>
#include <ostream>
#include <stdexcept>

#include "harness/conform.h"
#include "harness/run_setup.h"
#include "harness/tile_lists.h"

namespace attnbench {
namespace {

OwnedInputs MakeInputs(const Kernel& kernel, const Options& options, const EdgeCase& c) {
  const Problem& p = c.problem;
  OwnedInputs inputs = OwnedInputs::Make(kernel, options, p, c.input, c.seed, c.layout);
  if (c.empty_batch) inputs.SetKeyLength(0, 0);
  if (c.alias_kv) inputs.view().v = inputs.view().k;
  if (c.poison != 0) {
    const Inputs& in = inputs.view();
    const Index query = p.queries / 2, key = p.keys / 2;
    if (c.poisoned == 'q') inputs.Set(in.q, 0, 0, query, 0, c.poison);
    if (c.poisoned == 'k') inputs.Set(in.k, 0, 0, key, 0, c.poison);
    if (c.poisoned == 'v') inputs.Set(in.v, 0, 0, key, 0, c.poison);
    if (c.poisoned == 'b') inputs.Set(in.bias, 0, 0, query, key, c.poison);
    if (c.poisoned == 'B')
      for (Index j = 0; j < p.keys; ++j) inputs.Set(in.bias, 0, 0, query, j, c.poison);
  }
  return inputs;
}

// The same inputs on the same threads give the same bits, whatever the workspace held before.
// Empty, or what is wrong.
std::string Unrepeatable(const Kernel& kernel, const Problem& p, const Options& options,
                         const Inputs& in, int threads) {
  const OwnedOutput first(p, 0), second(p, 0);
  const Buffer workspace = WorkspaceOf(kernel, p, options, threads);
  for (const OwnedOutput* output : {&first, &second}) {
    output->Fill(0);
    workspace.Fill(output == &first ? 0x00 : 0xff);
    const RunSetup setup(kernel, p, options, in, threads, workspace.data());
    kernel.run(p, in, output->view(), setup.context());
  }
  if (std::memcmp(first.out_buffer().data(), second.out_buffer().data(), first.bytes()) != 0)
    return "out: run twice, on " + std::to_string(threads) + " threads, it has other bits";
  return "";
}

// Empty, or what is wrong.
std::string RunOne(const Kernel& kernel, const Options& options, const EdgeCase& c, int threads) {
  const OwnedInputs inputs = MakeInputs(kernel, options, c);
  CheckSettings settings{.rows = 0, .seed = c.seed, .threads = threads};
  const Problem& p = c.problem;
  // All rows as long as that costs the oracle little.
  if (1.0 * p.batch * p.heads * p.queries * p.keys * (p.head_dim + p.v_dim) > 2e7)
    settings.rows = 64;
  // With and without the optional outputs: kernels have different paths for them.
  settings.provides = c.seed % 2 ? kernel.provides : 0;
  settings.out_layout = c.layout;
  const Verdict verdict = Check(kernel, p, options, inputs.view(), settings);
  if (!verdict.ok) return verdict.reason;
  // One that selects does less than the problem that it is given asks for.
  if (kernel.executed && !kernel.select &&
      kernel.executed(p, options).flops < 0.999 * UsefulOf(kernel, p, options).flops)
    return "executed: fewer flops than the useful ones";
  return Unrepeatable(kernel, p, options, inputs.view(), threads);
}

// The case itself, or the nearest one that the kernel serves: its shapes, layouts and inputs under
// the kernel's own score or mask. A kernel of one pattern meets every edge shape that way.
EdgeCase NearestServed(const Kernel& kernel, const EdgeCase& c) {
  const Options options(kernel.options);
  if (!kernel.refuse || kernel.refuse(c.problem, options).empty()) return c;
  std::vector<EdgeCase> near;
  if (c.problem.layer) {
    near = WithoutAttention(c);
    for (const EdgeCase& other : near)
      if (kernel.refuse(other.problem, options).empty()) return other;
    return c;
  }
  if (c.problem.score == Score::kScaledDot) {
    near.push_back(c);
    near.back().problem.score = Score::kDot;  // keeps the scale, and with it the logits
    // Not with large inputs: the tolerance follows the logits, which tanh hides there.
    if (c.input.logit_scale == 1) {
      near.push_back(c);
      near.back().problem.score = Score::kAdditive;
      near.back().problem.hidden = 5;
    }
  }
  if (c.problem.mask.pattern == Mask::Pattern::kFull) {
    near.push_back(c);
    near.back().problem.mask.pattern = Mask::Pattern::kLocal;
    near.back().problem.mask.window = 5;
    near.push_back(c);
    near.back().problem.mask.pattern = Mask::Pattern::kColumns;
    near.back().problem.mask.window = 3;
    near.back().problem.mask.stride = 7;
    near.back().problem.mask.offset = Mask::kLastColumn;
    const Problem& p = c.problem;
    near.push_back(c);
    near.back().problem.mask.pattern = Mask::Pattern::kTiles;
    near.back().problem.mask.tiles =
        SharedTiles({.tile = 16, .band = 0, .random_tiles = 1}, p.queries, p.keys, p.mask.causal);
  }
  for (const EdgeCase& other : near)
    if (kernel.refuse(other.problem, options).empty()) return other;
  return c;
}

// "key_block=17, ": the options that are not their defaults.
std::string Changed(const Options& options) {
  std::string text;
  for (const Option& option : options.spec())
    if (const Index value = options[option.name]; value != option.default_value)
      text += std::string(option.name) + "=" + std::to_string(value) + ", ";
  return text;
}

bool OfTheEnvironment(const std::string& reason) { return reason.rfind("built without", 0) == 0; }

}  // namespace

Conformance Conform(const Kernel& kernel, const std::vector<EdgeCase>& cases, int threads) {
  Conformance result;
  for (const EdgeCase& asked : cases) {
    const std::string at = asked.group + "/" + asked.name + ": ";
    if (std::string invalid = asked.problem.Invalid(); !invalid.empty()) {
      result.failures.push_back(at + "the case itself is invalid: " + invalid);
      continue;
    }
    try {
      const EdgeCase c = NearestServed(kernel, asked);
      const std::string refusal =
          kernel.refuse ? kernel.refuse(c.problem, Options(kernel.options)) : "";
      if (!refusal.empty()) {
        ++result.refused;
        result.unavailable |= OfTheEnvironment(refusal);
        continue;
      }
      // Fuzzed problems under any options, also on one thread, and on one more than asked for.
      const Options options =
          c.random ? FuzzOptions(kernel, c.problem, c.seed) : Options(kernel.options);
      const int team = c.random ? 1 + static_cast<int>(c.seed % (threads + 1u)) : threads;
      const std::string wrong = RunOne(kernel, options, c, team);
      if (wrong.empty())
        ++result.passed;
      else
        result.failures.push_back(at + Changed(options) + "on " + std::to_string(team) +
                                  " threads: " + wrong);
    } catch (const std::exception& e) {
      result.failures.push_back(at + "throws: " + e.what());
    }
  }
  return result;
}

bool Report(const Conformance& result, const Kernel& kernel, const std::string& note,
            std::ostream& out) {
  const bool useless = result.passed == 0 && !result.unavailable;
  const bool ok = !useless && result.failures.empty();
  out << (ok ? "ok   " : "FAIL ") << kernel.name << note << ": " << result.passed << " passed, "
      << result.refused << " refused, " << result.failures.size() << " failed"
      << (result.passed        ? ""
          : result.unavailable ? " (not available here)"
                               : " (serves nothing)")
      << "\n";
  for (std::size_t i = 0; i < result.failures.size() && i < 10; ++i)
    out << "       " << result.failures[i] << "\n";
  if (result.failures.size() > 10) out << "       ...\n";
  out.flush();
  return ok;
}

std::vector<EdgeCase> CasesOf(ConformanceSettings* settings) {
  std::vector<EdgeCase> cases;
  for (const std::string& group : EdgeGroups()) {
    std::vector<EdgeCase> all = EdgeCases(group);
    for (std::size_t i = 0; i < all.size(); i += static_cast<std::size_t>(settings->every))
      cases.push_back(std::move(all[i]));
  }
  if (settings->fuzz_seed == 0)
    settings->fuzz_seed = static_cast<std::uint64_t>(
        std::chrono::system_clock::now().time_since_epoch().count() / 1000);
  for (Index i = 0; i < settings->fuzz_cases; ++i)
    cases.push_back(FuzzCase(settings->fuzz_seed + static_cast<std::uint64_t>(i)));
  return cases;
}

int RunConformance(ConformanceSettings settings, std::ostream& out) {
  std::vector<const Kernel*> kernels;
  for (const std::string& name : settings.kernels) {
    const Kernel* kernel = FindKernel(name);
    if (!kernel) throw std::invalid_argument("kernel: unknown kernel '" + name + "'");
    kernels.push_back(kernel);
  }
  if (kernels.empty()) {
    kernels = Kernels();
    for (const Kernel* layer : Layers()) kernels.push_back(layer);
  }

  const std::vector<EdgeCase> cases = CasesOf(&settings);
  std::vector<EdgeCase> layer_cases = LayerCases();
  for (Index i = 0; i < settings.fuzz_cases; ++i)
    layer_cases.push_back(FuzzLayerCase(settings.fuzz_seed + static_cast<std::uint64_t>(i)));
  out << cases.size() << " cases a kernel, " << layer_cases.size() << " a layer, "
      << settings.fuzz_cases << " of them fuzzed from seed " << settings.fuzz_seed << "\n";

  bool failed = false;
  for (const Kernel* kernel : kernels) {
    const Conformance result =
        Conform(*kernel, kernel->layer ? layer_cases : cases, settings.threads);
    failed |= !Report(result, *kernel, "", out);
  }
  return failed ? 1 : 0;
}

}  // namespace attnbench
