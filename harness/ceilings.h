// SPDX-License-Identifier: Apache-2.0
// What the machine can do, measured: multiply-add peak per dtype, bf16 dot peak, exp rate, read
// bandwidth. Each probe runs for a few milliseconds on `threads` OpenMP threads and gives the best
// of its repetitions: a ceiling.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/contract/tensor.h"

namespace attnbench {

// GFLOP/s of f32 FMA, or of the bf16 dot (two products a lane). Where the instruction set lacks the
// dot, the f32 FMA stands for it: kernels widen there.
double ProbeFlops(DType dtype, int threads);
// GB/s of reading `bytes` in all, split over the threads; the buffer is kept between calls.
double ProbeReadGbps(std::size_t bytes, int threads);
// GFLOP/s of products of bf16 tiles; only where AmxMissing() (amx.h) is empty.
double ProbeAmx(int threads);
// 1e9 float32 exponentials a second, by the kernels' kind of polynomial.
double ProbeGexps(int threads);
// Whether the dispatched instruction set has the bf16 dot.
bool NativeBf16Dot();

// The table of `attnbench peak`: a row a thread count.
// {"target", "bf16_dot", "amx", "rows": [{"threads", "f32_gflops", "bf16_gflops",
//   "amx_bf16_gflops": null where "amx" says why there is none, "gexps", "read_gbps": {"L1": ...,
//   "L2": ..., "L3": ..., "DRAM": ...}}]}
nlohmann::json PeakTable(const std::vector<int>& threads);
std::string FormatPeakTable(const nlohmann::json& table);

}  // namespace attnbench
