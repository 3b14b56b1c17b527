// SPDX-License-Identifier: Apache-2.0
// Test plugin: dies of a segmentation fault while it is being loaded.
#include <csignal>

namespace {
[[maybe_unused]] const int kLoaded = raise(SIGSEGV);
}
