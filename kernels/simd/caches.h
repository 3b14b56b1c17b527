// SPDX-License-Identifier: Apache-2.0
// What a kernel asks of the machine's caches.
#pragma once

#include "kernels/contract/problem.h"

namespace attnbench {

// Of the first processor, as Linux tells it (sysconf's figure counts all sockets in some virtual
// machines); 32 MiB where it does not.
Index LargestCacheBytes();

}  // namespace attnbench
