// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <list>

#include "kernels/contract/kernel.h"

namespace attnbench {
namespace {

std::list<Kernel>& Registered() {  // a list: pointers survive later registrations
  static std::list<Kernel> kernels;
  return kernels;
}

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "attnbench: %s\n", message.c_str());
  std::abort();
}

template <class T>
bool Has(const std::vector<T>& values, T value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

std::vector<const Kernel*> Sorted(bool layers) {
  std::vector<const Kernel*> kernels;
  for (const Kernel& kernel : Registered())
    if ((kernel.layer != nullptr) == layers) kernels.push_back(&kernel);
  std::sort(kernels.begin(), kernels.end(),
            [](const Kernel* a, const Kernel* b) { return a->name < b->name; });
  return kernels;
}

}  // namespace

std::vector<const Kernel*> Kernels() { return Sorted(false); }
std::vector<const Kernel*> Layers() { return Sorted(true); }

const Kernel* FindKernel(std::string_view name) {
  for (const Kernel& kernel : Registered())
    if (kernel.name == name) return &kernel;
  return nullptr;
}

const Kernel& RegisterKernel(Kernel kernel) {
  const std::string name(kernel.name);
  if (name.empty()) Die("a kernel registers without a name");
  if (!kernel.run) Die("kernel '" + name + "' registers without run");
  if (FindKernel(name)) Die("two kernels register as '" + name + "'");
  if (kernel.options.size() > Options::kMax) Die("kernel '" + name + "' has too many options");
  Registered().push_back(std::move(kernel));
  return Registered().back();
}

Registrar::Registrar(Kernel kernel) { RegisterKernel(std::move(kernel)); }

const std::vector<Option>& Options::spec() const {
  static const std::vector<Option> none;
  return spec_ ? *spec_ : none;
}

std::string Options::Set(std::string_view name, Index value) {
  for (std::size_t i = 0; i < spec().size(); ++i) {
    const Option& option = spec()[i];
    if (name != option.name) continue;
    if (value < option.min || value > option.max)
      return "option '" + std::string(name) + "' must be in " + std::to_string(option.min) +
             " ... " + std::to_string(option.max) + ", is " + std::to_string(value);
    values_[i] = value;
    return "";
  }
  std::string known;
  for (const Option& option : spec())
    known += (known.empty() ? "" : ", ") + std::string(option.name);
  return "unknown option '" + std::string(name) + "' (" +
         (known.empty() ? "this kernel has none" : "known: " + known) + ")";
}

Index Options::operator[](std::string_view name) const {
  for (std::size_t i = 0; i < spec().size(); ++i)
    if (name == spec()[i].name) return values_[i];
  Die("option '" + std::string(name) + "' is read but not declared");
}

std::string Unserved(const Problem& p, const Serves& s) {
  if (p.layer) return "d_model is a layer's";
  if (!Has(s.scores, p.score)) return "score '" + std::string(Name(p.score)) + "' is not served";
  if (!Has(s.patterns, p.mask.pattern))
    return "pattern '" + std::string(Name(p.mask.pattern)) + "' is not served";
  if (p.dtype != DType::kF32 && !(s.bf16 && p.dtype == DType::kBF16))
    return "dtype '" + std::string(Name(p.dtype)) + "' is not served";
  if (p.out_dtype == DType::kF64) return "out_dtype 'f64' is the oracle's";
  if (p.has_bias && !s.bias) return "bias is not served";
  if (p.has_key_lengths && !s.key_lengths) return "key_lengths are not served";
  if (p.has_centers && !s.centers) return "centers (local-p) are not served";
  if (p.softcap > 0 && !s.softcap) return "softcap is not served";
  if (p.mask.sinks > 0 && !s.sinks) return "sinks are not served";
  if (!s.positions && (p.positions.query_step != 1 || p.positions.key_step != 1))
    return "positions with steps other than 1 are not served";
  return "";
}

}  // namespace attnbench
