// SPDX-License-Identifier: Apache-2.0
// The keys that a block of queries sees under the sparse patterns, in closed form: the work to find
// them does not grow with the number of keys.
#pragma once

#include "kernels/simd/attend.h"

namespace attnbench {

// Rows [begin, end) that queries of a block see, by lane: what all of them see goes to
// run(begin, end, false), the rest to run(begin, end, true). Cuts lie `granule` rows apart.
class LaneRanges {
 public:
  void Add(Index begin, Index end) {
    if (end <= begin) {  // this lane sees none: there is nothing that all see
      all_end_ = 0;
      return;
    }
    any_begin_ = std::min(any_begin_, begin), any_end_ = std::max(any_end_, end);
    all_begin_ = std::max(all_begin_, begin), all_end_ = std::min(all_end_, end);
  }
  bool empty() const { return any_end_ <= any_begin_; }
  Index begin() const { return any_begin_; }
  Index end() const { return any_end_; }
  void ExtendTo(Index begin, Index end) {
    any_begin_ = std::min(any_begin_, begin), any_end_ = std::max(any_end_, end);
  }

  template <class Run>
  void ForEach(Index granule, Run run) const {
    if (empty()) return;
    const Index first = any_begin_ + RoundUp(all_begin_ - any_begin_, granule);
    const Index last = any_end_ - RoundUp(any_end_ - all_end_, granule);
    if (last <= first) return run(any_begin_, any_end_, true);
    if (first > any_begin_) run(any_begin_, first, true);
    run(first, last, false);
    if (any_end_ > last) run(last, any_end_, true);
  }

 private:
  static Index RoundUp(Index x, Index to) { return (x + to - 1) / to * to; }
  static constexpr Index kFar = Index{1} << 60;
  Index any_begin_ = kFar, any_end_ = 0, all_begin_ = 0, all_end_ = kFar;
};

// Band and sinks of queries first ... first + rows - 1: calls run(begin, end, masked) with key
// indices, and fills `mask` for the masked ones. Patterns with columns admit those inside the
// band's runs too, kStrided's excepted. Returns the keys that the band's runs cover.
struct BandCover {
  Index sinks = 0;           // [0, sinks), unless begin is 0
  Index begin = 0, end = 0;  // the band
};
template <class Run>
BandCover ForEachBandRun(const Problem& p, Index first, int rows, Index key_limit, Index granule,
                         LaneMask* mask, Run run) {
  LaneRanges band, sinks;
  for (int lane = 0; lane < rows; ++lane) {
    AdmittedKeys a = p.Admitted(first + lane, key_limit);
    if (p.mask.pattern == Mask::Pattern::kStrided) a.stride = 0;
    mask->Set(lane, a);
    band.Add(a.band_begin, a.band_end);
    sinks.Add(0, a.sinks);
  }
  for (int lane = rows; lane < LaneMask::kLanes; ++lane) mask->SetRange(lane, 0, 0);
  mask->admits = nullptr;
  mask->same_residue = true;
  if (!sinks.empty() && !band.empty() && sinks.end() >= band.begin()) {
    band.ExtendTo(0, sinks.end());
  } else {
    sinks.ForEach(granule, run);
  }
  band.ForEach(granule, run);
  if (band.empty()) return {sinks.end(), sinks.end(), sinks.end()};
  return {sinks.end(), band.begin(), band.end()};
}

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

}  // namespace attnbench
