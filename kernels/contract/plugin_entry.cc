// SPDX-License-Identifier: Apache-2.0
// Linked into every plugin, never into the host.
#include "kernels/contract/plugin.h"

#define ATTNBENCH_EXPORT extern "C" __attribute__((visibility("default")))

ATTNBENCH_EXPORT const attnbench::PluginTags attnbench_plugin_tags = {ATTNBENCH_CONTRACT_HASH,
                                                                      ATTNBENCH_ABI_TAG};

ATTNBENCH_EXPORT void attnbench_plugin_register(const attnbench::PluginHost* host) {
  for (const attnbench::Kernel* kernel : attnbench::Kernels())
    host->register_kernel(host->state, *kernel);
}
