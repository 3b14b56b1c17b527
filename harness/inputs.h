// SPDX-License-Identifier: Apache-2.0
// Inputs of a problem: seeded random tensors, or real ones from a safetensors file. The same seed
// gives the same bits on every machine: own generator, own normal transform. Kinds of InputSpec:
//   gaussian  N(0, 1); q (of layers: wq) is multiplied by logit_scale
//   outliers  N(0, 1) + N(0, 100) * Bernoulli(0.001): what quantised kernels stumble over
//   calibrated  q and k like those of real heads, at any length (calibrated_inputs.h); v N(0, 1)
//   tensors   layer<layer>.q|k|v of a safetensors file, heads from `head` on
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "harness/case.h"
#include "kernels/contract/kernel.h"
#include "kernels/layers/layer.h"

namespace attnbench {

// Owned memory: 64-byte aligned, 2 MiB from there on (so that huge pages can serve it).
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);  // throws std::bad_alloc
  std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }
  void Fill(unsigned char byte) const;

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

// SplitMix64 in counter mode: element i of a stream depends on the seed and on i alone.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t Bits();
  double Uniform();                 // [0, 1)
  Index Below(Index n);             // 0 ... n-1
  Index Between(Index a, Index b);  // a ... b
  bool Chance(double probability) { return Uniform() < probability; }
  // N(0, 1) to within 1 % of its density out to 4 sigma, from integers alone (no libm, so the same
  // bits everywhere, and 10x faster than Box-Muller): the number of ones among 64 random bits is
  // binomial with sigma 4; a triangular dither makes it continuous.
  float Normal();

 private:
  std::uint64_t state_;
};

// How the tensors lie in memory. Padding, where there is any, holds NaN bytes: a kernel that reads
// it shows.
enum class Layout : std::uint8_t {
  kPacked,      // [batch][head][row][column]
  kPadded,      // rows and heads further apart than they need be
  kTokenMajor,  // [batch][row][head][column], as projections leave them
};

// A problem's inputs with their memory. view() stays valid when the object moves.
class OwnedInputs {
 public:
  // Throws std::runtime_error with one clear line (a file that is missing or does not fit).
  static OwnedInputs Make(const Problem& problem, const InputSpec& spec, std::uint64_t seed,
                          Layout layout = Layout::kPacked);
  // The same for a kernel of either kind: a layer's come with its weights.
  static OwnedInputs Make(const Kernel& kernel, const Options& options, const Problem& problem,
                          const InputSpec& spec, std::uint64_t seed,
                          Layout layout = Layout::kPacked);

  const Inputs& view() const { return view_; }
  Inputs& view() { return view_; }  // to alias or drop tensors in a test
  void SetKeyLength(Index batch, Index length);
  void Set(const ConstTensor& tensor, Index batch, Index head, Index row, Index column,
           double value);     // one element of an own tensor, for tests
  OwnedInputs Clone() const;  // same content, own memory: for the cold ring
  std::size_t bytes() const;

 private:
  struct Owned {
    Buffer q, k, v, bias, w, u, vector, centers;
    std::vector<Index> key_lengths;
    Buffer x, memory;             // of layers
    std::vector<Buffer> weights;  // of layers
    std::vector<const float*> weight_data;
  };
  Owned owned_;
  Inputs view_;
};

// A problem's output with its memory: out always, lse and weights when asked for.
class OwnedOutput {
 public:
  OwnedOutput() = default;
  OwnedOutput(const Problem& problem, unsigned provides, Layout layout = Layout::kPacked);
  const Output& view() const { return view_; }
  void Fill(std::uint16_t pattern) const;  // every buffer, padding included
  std::size_t bytes() const { return out_.size() + lse_.size() + weights_.size(); }
  const Buffer& out_buffer() const { return out_; }
  const Buffer& weights_buffer() const { return weights_; }

 private:
  Buffer out_, lse_, weights_;
  Output view_;
};

// Bytes that OwnedInputs and OwnedOutput will take, without taking them. Null: a kernel hosted in
// Python.
double TensorBytes(const Kernel* kernel, const Problem& problem, const Options& options);

}  // namespace attnbench
