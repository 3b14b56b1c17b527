// SPDX-License-Identifier: Apache-2.0
// The one comparison with the oracle: the tests and every timing go through Check().
//
// The rule: error = max|out - oracle| / max|v| (of a layer: / max|oracle|) must not exceed
//   2 * (error of the same-dtype naive evaluation over the same rows) + floor + c*eps*max|logit|,
// and before that: no sentinel beside outputs or workspace is touched, every output element is
// written, and the output is finite exactly where the oracle is.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harness/dense_distance.h"
#include "harness/inputs.h"
#include "kernels/contract/kernel.h"

namespace attnbench {

struct CheckSettings {
  Index rows = 64;  // compared with the oracle, at least one a (batch, head); 0: all
  std::uint64_t seed = 1;
  int threads = 1;
  unsigned provides = 0;  // lse and weights to ask for and check (what the kernel provides of them)
  Layout out_layout = Layout::kPacked;
  std::shared_ptr<const void> plan = nullptr;  // the kernel's plan, when it was made already
  bool dense = false;  // measure how far a kernel that selects is from dense attention
};

struct Verdict {
  bool ok = false;
  std::string reason = {};     // empty when ok; else what is wrong, and where
  double error = 0;            // max|out - oracle| / max|v|
  double error_frobenius = 0;  // |out - oracle|_F / |oracle|_F over the rows checked
  double tolerance = 0;        // that `error` was held to
  Index rows_checked = 0;
  std::optional<DenseDistance> dense = {};  // of a kernel that selects, where asked for
};

// An element that holds it was not written: a signalling NaN in float32 and in bfloat16, which
// arithmetic never produces.
constexpr std::uint16_t kUnwritten = 0xffa5;

// Runs the kernel once in fenced, poisoned memory and compares. The problem must be valid and not
// refused. Exceptions of the kernel pass through.
Verdict Check(const Kernel& kernel, const Problem& problem, const Options& options,
              const Inputs& inputs, const CheckSettings& settings = {});

// Workspace as the check hands it out: between fences of sentinel bytes, poisoned with NaN.
class FencedWorkspace {
 public:
  explicit FencedWorkspace(std::size_t bytes);
  std::byte* data() const;
  std::size_t size() const { return bytes_; }
  bool Intact() const;

 private:
  std::size_t bytes_;
  Buffer buffer_;
};

// A kernel that selects tiles is judged exact under them.
Problem JudgedProblem(const Problem& problem, const TileList* selected);

// One edge case of the conformance suite.
struct EdgeCase {
  std::string group = {};  // "lengths", "head_dims", "masks", ...
  std::string name = {};   // says what is special, as "keys=65,causal"
  Problem problem = {};    // resolved and valid
  InputSpec input = {};
  Layout layout = Layout::kPacked;
  std::uint64_t seed = 1;
  bool random = false;  // drawn: options and threads are drawn for it too, from the seed
  // Not 0: this value (NaN, Inf) replaces one element of the tensor named: q, k or v; b: one
  // element of the bias, B: a whole row of it.
  double poison = 0;
  char poisoned = 'q';
  bool empty_batch = false;  // key_lengths of the first batch is 0
  bool alias_kv = false;     // v is k
};
// All groups, in the order in which they are run; "fuzz" is not among them.
std::vector<std::string> EdgeGroups();
std::vector<EdgeCase> EdgeCases(const std::string& group);
// A random valid problem of moderate size: anything that the contract can express.
EdgeCase FuzzCase(std::uint64_t seed);
// A kernel's options for such a problem, drawn from their ranges: as far as it serves the problem
// under them, for a range may hold values that it refuses.
Options FuzzOptions(const Kernel& kernel, const Problem& problem, std::uint64_t seed);
// The same for layers, chosen and random; any attention kernel stands inside.
std::vector<EdgeCase> LayerCases();
EdgeCase FuzzLayerCase(std::uint64_t seed);
// What a layer that does not attend can make of a layer's case.
std::vector<EdgeCase> WithoutAttention(const EdgeCase& layer_case);
// "70x90,d=64,local,window=5,causal": what is special about a problem.
std::string Label(const Problem& problem);
std::shared_ptr<const TileList> RandomTiles(Index queries, Index keys, Index query_tile,
                                            Index key_tile, double density, std::uint64_t seed);

// How one kernel did on a list of cases.
struct Conformance {
  Index passed = 0, refused = 0;
  bool unavailable = false;           // refused because the build or the machine lacks something
  std::vector<std::string> failures;  // one line each: case, what is wrong
};
Conformance Conform(const Kernel& kernel, const std::vector<EdgeCase>& cases, int threads = 1);

// A line of passes and refusals, the failures beneath; `note` follows the kernel's name. False on a
// failure, also of a kernel that refuses everything and gives no reason of its environment.
bool Report(const Conformance& result, const Kernel& kernel, const std::string& note,
            std::ostream& out);

struct ConformanceSettings {
  std::vector<std::string> kernels;  // empty: all
  int threads = 2;
  Index fuzz_cases = 200;
  std::uint64_t fuzz_seed = 0;  // 0: from the clock; it is printed
  Index every = 1;              // only each so many-th edge case of a group
};
// The edge cases that the settings ask for, the random ones last; sets a seed that is 0.
std::vector<EdgeCase> CasesOf(ConformanceSettings* settings);
// `attnbench check`: registry x edge cases and fuzz, a line per kernel. Returns the exit status: 0,
// or 1 on a failure. Throws std::invalid_argument on an unknown kernel.
int RunConformance(ConformanceSettings settings, std::ostream& out);

}  // namespace attnbench
