// SPDX-License-Identifier: Apache-2.0
// What a message costs as the ring sends them: every rank to the next, all at the same time.
#pragma once

#include <nlohmann/json.hpp>

#include "harness/ranks/mpi_ranks.h"

namespace attnbench {

// By all ranks alike. {"ranks", "mpi", "messages": [{"bytes", "ns"}]}: the median of repetitions,
// each until the slowest rank has both sent and received.
nlohmann::json MeasureLink(MpiRanks* ranks);

}  // namespace attnbench
