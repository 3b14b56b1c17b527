// SPDX-License-Identifier: Apache-2.0
// The one interface of all attention kernels: Q, K, V -> O. A kernel is a value; the foot of its
// file reads as its claims:
//
//   ATTN_KERNEL(.name = "naive", .idea = "...", .refuse = ..., .run = ...);
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/contract/problem.h"

namespace attnbench {

// Weights of the trainable scores, float32, row-major, shared over batch and heads (shapes: Score).
struct ScoreWeights {
  const float* w = nullptr;
  const float* u = nullptr;
  const float* v = nullptr;
};

// All but q, k, v are optional, and present exactly when the problem says so (has_bias, ...). A
// layer has x, memory and weights instead.
struct Inputs {
  ConstTensor q;                       // [batch][heads][queries][head_dim]
  ConstTensor k;                       // [batch][kv_heads][keys][head_dim]
  ConstTensor v;                       // [batch][kv_heads][keys][v_dim]; may alias k
  const Index* key_lengths = nullptr;  // [batch]; keys at and beyond it are never read
  ConstTensor bias;                    // f32 [batch][heads][queries][keys], added to the logits
  ScoreWeights score;
  // f32 [batch][heads][queries], positions. Luong's local-p: the pattern must be kLocal; the window
  // is centred here instead of at the query, and weights are multiplied (not renormalised) by
  // exp(-(j - centre)^2 / (2 sigma^2)), sigma = window / 2 (Luong et al. 2015, eq. 10).
  const float* centers = nullptr;
  ConstTensor x;                          // f32 [batch][1][queries][d_model]
  ConstTensor memory;                     // f32 [batch][1][keys][d_model]: of cross-attention
  const float* const* weights = nullptr;  // packed matrices, in the order of Layer::weights
};

struct Output {
  Tensor out;            // [batch][heads][queries][v_dim]; of a layer [batch][1][queries][d_out]
  float* lse = nullptr;  // [batch][heads][queries]: log sum exp of the logits, natural log
  Tensor weights;        // f32 [batch][heads][queries][keys], zero where masked
};

// What a kernel writes beyond `out`, when the caller's Output asks for it.
enum Provides : unsigned { kLse = 1u << 0, kWeights = 1u << 1 };

// A named integer that a kernel reads: set in experiment files, part of a case's identity.
struct Option {
  const char* name;
  Index default_value, min, max;
  const char* help;
};

// The options' values for one case, in the order of Kernel::options.
class Options {
 public:
  static constexpr std::size_t kMax = 12;
  Options() = default;
  explicit Options(const std::vector<Option>& spec) : spec_(&spec) {
    for (std::size_t i = 0; i < spec.size(); ++i) values_[i] = spec[i].default_value;
  }
  // Empty, or what is wrong.
  std::string Set(std::string_view name, Index value);
  Index operator[](std::string_view name) const;  // aborts on a name the kernel does not declare
  const std::vector<Option>& spec() const;

 private:
  const std::vector<Option>* spec_ = nullptr;
  std::array<Index, kMax> values_{};
};

// What a run is given beside the data.
struct Context {
  int threads = 1;
  const Options* options = nullptr;
  std::byte* workspace = nullptr;      // 64-byte aligned; workspace(...) bytes; content undefined
  const void* plan = nullptr;          // what plan() returned
  const TileList* selected = nullptr;  // what select() returned
};

struct Layer;  // kernels/layers/layer.h

struct Kernel {
  std::string_view name = {};  // the file's stem
  std::string_view idea = {};  // one line, for `list` and legends
  unsigned provides = 0;       // Provides flags
  std::vector<Option> options = {};
  // Empty when the kernel solves this problem exactly; else the reason, naming what it does not
  // serve. Called before anything else.
  std::function<std::string(const Problem&, const Options&)> refuse = nullptr;
  // Work really done, waste included (masked pairs computed, tensors copied). Null: Useful().
  std::function<Cost(const Problem&, const Options&)> executed = nullptr;
  // Bytes of workspace. Null: none.
  std::function<std::size_t(const Problem&, const Options&, int threads)> workspace = nullptr;
  // What does not depend on the inputs, made once a problem and timed apart. Null: nothing.
  std::function<std::shared_ptr<const void>(const Problem&, const Options&, int threads)> plan =
      nullptr;
  // A content-dependent choice of tiles; timed apart, and included. Null: none.
  std::function<TileList(const Problem&, const Inputs&, const Context&)> select = nullptr;
  // Deterministic for given threads; allocates nothing.
  std::function<void(const Problem&, const Inputs&, const Output&, const Context&)> run = nullptr;
  // The instruction set (or the library's architecture) in use. Null: the compiler's baseline.
  std::function<std::string()> target = nullptr;
  // "cpp", or "python" for kernels hosted in Python; plugins are marked by the loader.
  std::string_view host = "cpp";
  // What a layer, X -> Y, says beyond. Null: attention, Q, K, V -> O.
  std::shared_ptr<const Layer> layer = nullptr;
};

// The registry, sorted by name. Pointers stay valid for the life of the process.
std::vector<const Kernel*> Kernels();             // attention
std::vector<const Kernel*> Layers();              // layers
const Kernel* FindKernel(std::string_view name);  // of either kind; null when there is none
// Aborts with a message when the name is taken or `run` is missing.
const Kernel& RegisterKernel(Kernel kernel);

// What a kernel serves; everything else is refused by name. For the `refuse` of a kernel:
//   return Unserved(problem, {.bf16 = true, .key_lengths = true});
struct Serves {
  std::vector<Score> scores = {Score::kScaledDot, Score::kDot};
  std::vector<Mask::Pattern> patterns = {Mask::Pattern::kFull,    Mask::Pattern::kLocal,
                                         Mask::Pattern::kStrided, Mask::Pattern::kColumns,
                                         Mask::Pattern::kFixed,   Mask::Pattern::kTiles};
  bool bf16 = false, bias = false, key_lengths = false, centers = false, softcap = false,
       sinks = true, positions = true /* steps other than 1 */;
};
std::string Unserved(const Problem& problem, const Serves& serves);

// Bumps along a workspace in 64-byte steps. With a null base it only counts:
//   Arena a; Layout(a, ...); return a.bytes();
class Arena {
 public:
  explicit Arena(std::byte* base = nullptr) : base_(base) {}
  template <class T>
  T* Take(std::size_t count) {
    std::byte* at = base_ ? base_ + bytes_ : nullptr;
    bytes_ += (count * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(at);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* base_;
  std::size_t bytes_ = 0;
};

struct Registrar {
  explicit Registrar(Kernel kernel);
};

#define ATTN_KERNEL_CONCAT_(a, b) a##b
#define ATTN_KERNEL_NAME_(line) ATTN_KERNEL_CONCAT_(attn_kernel_registrar_, line)
#define ATTN_KERNEL(...)                                                            \
  [[maybe_unused]] static const ::attnbench::Registrar ATTN_KERNEL_NAME_(__LINE__)( \
      ::attnbench::Kernel{__VA_ARGS__})

}  // namespace attnbench
