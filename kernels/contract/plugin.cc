// SPDX-License-Identifier: Apache-2.0
#include "kernels/contract/plugin.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <set>

namespace attnbench {

std::string LoadPlugin(const std::string& path) {
  static std::set<std::string> loaded;
  const std::unique_ptr<char, decltype(&std::free)> real(realpath(path.c_str(), nullptr),
                                                         std::free);
  if (!real) return "plugin '" + path + "': no such file";
  if (loaded.count(real.get())) return "";

  // Never closed: names, ideas and code of its kernels live in the object.
  void* object = dlopen(real.get(), RTLD_NOW | RTLD_LOCAL);
  if (!object) return "plugin '" + path + "': " + dlerror();
  const auto* tags = static_cast<const PluginTags*>(dlsym(object, kPluginTagsSymbol));
  const auto entry =
      reinterpret_cast<void (*)(const PluginHost*)>(dlsym(object, kPluginRegisterSymbol));
  if (!tags || !entry)
    return "plugin '" + path + "': not an attnbench plugin (no " + kPluginTagsSymbol + ")";
  const std::string hash = tags->contract_hash, abi = tags->abi;
  if (hash != ATTNBENCH_CONTRACT_HASH)
    return "plugin '" + path + "': built against contract " + hash + ", this is " +
           ATTNBENCH_CONTRACT_HASH + "; rebuild it against these headers";
  if (abi != ATTNBENCH_ABI_TAG)
    return "plugin '" + path + "': built with ABI " + abi + ", this is " + ATTNBENCH_ABI_TAG;

  std::string error;
  const PluginHost host = {&error, [](void* state, const Kernel& kernel) {
                             if (FindKernel(kernel.name)) {
                               *static_cast<std::string*>(state) =
                                   "kernel '" + std::string(kernel.name) + "' exists already";
                               return;
                             }
                             Kernel copy = kernel;
                             copy.host = "plugin";
                             RegisterKernel(std::move(copy));
                           }};
  entry(&host);
  if (!error.empty()) return "plugin '" + path + "': " + error;
  loaded.insert(real.get());
  return "";
}

}  // namespace attnbench
