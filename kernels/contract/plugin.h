// SPDX-License-Identifier: Apache-2.0
// Kernels in shared objects. A plugin is one or more kernel files, the contract's own sources and
// plugin_entry.cc, linked into a shared object with hidden visibility: its ATTN_KERNEL lines fill
// the plugin's private registry, and the entry point hands those kernels to the host. The same
// kernel file therefore serves in the tree and out of it, unchanged (see attnbench_add_plugin).
#pragma once

#include <string>

#include "kernels/contract/kernel.h"

// The hash of the contract's headers, given by the build to host and plugin alike.
#ifndef ATTNBENCH_CONTRACT_HASH
#error "compile with -DATTNBENCH_CONTRACT_HASH=\"...\" (attnbench_add_plugin does)"
#endif
#define ATTNBENCH_STRINGIFY_(x) #x
#define ATTNBENCH_STRINGIFY(x) ATTNBENCH_STRINGIFY_(x)
// What decides the layout of the types that cross the border: GCC's ABI version, libstdc++'s
// string ABI and the language level.
#define ATTNBENCH_ABI_TAG                                                     \
  "gxx" ATTNBENCH_STRINGIFY(__GXX_ABI_VERSION) "-cxx11=" ATTNBENCH_STRINGIFY( \
      _GLIBCXX_USE_CXX11_ABI) "-" ATTNBENCH_STRINGIFY(__cplusplus)

namespace attnbench {

// Plain C: readable whatever the plugin was built with.
struct PluginTags {
  const char* contract_hash;
  const char* abi;
};

struct PluginHost {
  void* state;
  void (*register_kernel)(void* state, const Kernel& kernel);
};

inline constexpr char kPluginTagsSymbol[] = "attnbench_plugin_tags";
inline constexpr char kPluginRegisterSymbol[] = "attnbench_plugin_register";

// Loads a plugin and registers its kernels with host = "plugin". Loading a path twice does nothing.
// Empty, or why the plugin is refused: not found, other contract, other ABI, a name that is taken.
std::string LoadPlugin(const std::string& path);

}  // namespace attnbench
