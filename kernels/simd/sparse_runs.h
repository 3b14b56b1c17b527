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
// sinks: left of the band, then right of it, or both at once. Calls run as ForEachBandRun does.
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
  // A band that hides few rows of few columns is a hole in one run of both sides: one tile instead
  // of two that are not full.
  constexpr Index kHole = 8, kFew = 24;
  const RowRange lefts[] = {left(0), left(rows - 1)}, rights[] = {right(0), right(rows - 1)};
  const Index hole_begin = std::min(lefts[0].end, lefts[1].end);
  const Index hole_end = std::max(rights[0].begin, rights[1].begin);
  const Index begin = lefts[0].begin, end = std::max(rights[0].end, rights[1].end);
  if (lefts[1].begin == begin && begin < hole_begin && hole_end < end && end - begin <= kFew &&
      hole_end - hole_begin <= kHole) {
    RowRange l = lefts[0], r = rights[0];
    for (int lane = 0; lane < LaneMask::kLanes; ++lane) {
      if (lane < rows) l = left(lane), r = right(lane);
      mask->sinks[lane] = static_cast<std::int32_t>(l.end);
      mask->begin[lane] = static_cast<std::int32_t>(r.begin);
      mask->end[lane] = static_cast<std::int32_t>(r.end);
    }
    mask->SetLeading(static_cast<std::int32_t>(end));
    return run(begin, end, mask);
  }
  key_runs::RunOver(mask, rows, steady, left, run);
  key_runs::RunOver(mask, rows, steady, right, run);
}

}  // namespace attnbench
