// SPDX-License-Identifier: Apache-2.0
// Intel's matrix tiles (AMX), of which attnbench measures the ceiling.
#pragma once

#include <string>

#include "kernels/contract/tensor.h"

namespace attnbench {

// Why this process cannot multiply bf16 tiles; empty if it can. The first call asks Linux for the
// permission, which is the whole process's. (Tried on machines without tiles only.)
std::string AmxMissing();

// `iterations` times four independent products of bf16 tiles; the operations done. Not to be called
// where AmxMissing() says something.
double AmxLoop(Index iterations);

}  // namespace attnbench
