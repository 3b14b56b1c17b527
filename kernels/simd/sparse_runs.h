// SPDX-License-Identifier: Apache-2.0
// Every stride-th key, gathered into dense rows, and which of these rows a block of queries sees
// beside its band and sinks.
#pragma once

#include "kernels/simd/key_runs.h"

namespace attnbench {

// Keys residue, residue + stride, ... (and the next width - 1 after each) in ascending order.
struct ColumnKeys {
  Index stride = 1, residue = 0, width = 0;

  // Row r of the gathered columns is this key.
  Index Key(Index row) const {
    // A group may wrap past the stride: its wrapped part leads.
    const Index head = std::max<Index>(0, residue + width - stride);
    const Index group = row / width, within = row % width;
    return group * stride + (within < head ? within : residue + within - head);
  }
  // How many rows have keys under `limit`.
  Index Below(Index limit) const {
    if (limit <= 0) return 0;
    const Index head = std::max<Index>(0, residue + width - stride), rest = limit % stride;
    return limit / stride * width + std::min(rest, head) +
           std::clamp<Index>(rest - residue, 0, width - head);
  }
};

// Rows of `keys` that queries first, first + step, ... see and that are neither in their band nor
// sinks: left of the band, then right of it. Calls run as ForEachBandRun does.
template <class Run>
void ForEachColumnRun(const Problem& p, const ColumnKeys& keys, Index first, Index step, int rows,
                      Index key_limit, LaneMask* mask, Run run) {
  // A step of the class moves the bounds by one row, as a step of one key moves them by at most
  // one.
  const bool steady = key_runs::Steady(p) && (step == 1 || step == keys.stride);
  const auto left = [&](int lane) {
    const AdmittedKeys a = p.Admitted(first + lane * step, key_limit);
    const Index begin = keys.Below(a.sinks);
    return RowRange{begin, std::max(begin, keys.Below(a.band_begin))};
  };
  const auto right = [&](int lane) {
    const AdmittedKeys a = p.Admitted(first + lane * step, key_limit);
    const Index begin = keys.Below(std::max(a.sinks, a.band_end));
    return RowRange{begin, std::max(begin, keys.Below(a.limit))};
  };
  key_runs::RunOver(mask, rows, steady, left, run);
  key_runs::RunOver(mask, rows, steady, right, run);
}

}  // namespace attnbench
