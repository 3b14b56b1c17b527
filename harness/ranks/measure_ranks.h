// SPDX-License-Identifier: Apache-2.0
// Measures one case over a team of ranks: check, then time; or, in a pass of its own, memory. By
// rank 0, which answers what MeasureCase() and MeasureMemory() answer of a case of one process; a
// time is that of the slowest rank, from a common start.
#pragma once

#include "harness/child.h"
#include "harness/ranks/team.h"

namespace attnbench {

Passes PassesOver(Team* team);

}  // namespace attnbench
