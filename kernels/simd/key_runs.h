// SPDX-License-Identifier: Apache-2.0
// The keys that a block of consecutive queries sees, as few runs as a mask permits: runs that every
// query sees whole, runs that need a LaneMask, and nothing for what nobody sees.
#pragma once

#include "kernels/simd/attend.h"

namespace attnbench {

// Fills `mask` for queries first ... first + rows - 1 and calls run(begin, end, masked) in
// ascending order. key_limit: keys there are. `granule`: how finely runs are cut.
template <class Run>
void ForEachKeyRun(const Problem& p, Index first, int rows, Index key_limit, Index granule,
                   LaneMask* mask, Run run);

namespace key_runs {

struct Predicate {
  const Problem* problem;
  Index first;
  static bool Admits(const void* context, int lane, Index key) {
    const auto& self = *static_cast<const Predicate*>(context);
    return self.problem->Admits(self.first + lane, key);
  }
};

inline Index FloorDiv(Index a, Index b) { return a / b - (a % b != 0 && (a % b < 0) != (b < 0)); }

// Causal alone: a triangle. Keys of index at most FloorDiv(p - origin, step).
template <class Run>
void Triangle(const Problem& p, Index first, int rows, Index key_limit, LaneMask* mask, Run run) {
  Index full = key_limit, end = 0;
  for (int lane = 0; lane < rows; ++lane) {
    Index limit = p.QueryPosition(first + lane) - p.positions.key_origin;
    if (p.positions.key_step != 1) limit = FloorDiv(limit, p.positions.key_step);
    limit = std::clamp<Index>(limit + 1, 0, key_limit);
    mask->SetRange(lane, 0, limit);
    full = std::min(full, limit);
    end = std::max(end, limit);
  }
  if (full > 0) run(Index{0}, full, false);
  if (end > full) run(full, end, true);
}

// Merges neighbours of one kind.
template <class Run>
class Merger {
 public:
  explicit Merger(Run run) : run_(run) {}
  void Add(Index begin, Index end, bool masked) {
    if (begin == end_ && masked == masked_) {
      end_ = end;
      return;
    }
    Flush();
    begin_ = begin, end_ = end, masked_ = masked;
  }
  void Flush() {
    if (end_ > begin_) run_(begin_, end_, masked_);
    begin_ = end_;
  }

 private:
  Run run_;
  Index begin_ = 0, end_ = 0;
  bool masked_ = false;
};

}  // namespace key_runs

template <class Run>
void ForEachKeyRun(const Problem& p, Index first, int rows, Index key_limit, Index granule,
                   LaneMask* mask, Run run) {
  using Pattern = Mask::Pattern;
  const bool full_pattern = p.mask.pattern == Pattern::kFull;
  if (full_pattern && !p.mask.causal)
    return key_limit > 0 ? run(Index{0}, key_limit, false) : void();
  for (int lane = rows; lane < LaneMask::kLanes; ++lane) mask->SetRange(lane, 0, 0);
  mask->stride = 0;
  mask->admits = nullptr;
  if (full_pattern && p.positions.key_step > 0 && p.mask.sinks == 0)
    return key_runs::Triangle(p, first, rows, key_limit, mask, run);

  if (!p.HasClosedForm()) {  // tiles, keys in strides: by the predicate, wherever it may admit
    const key_runs::Predicate predicate{&p, first};
    mask->admits = key_runs::Predicate::Admits;
    mask->context = &predicate;
    for (int lane = 0; lane < rows; ++lane) mask->SetRange(lane, 0, key_limit);
    key_runs::Merger merger(run);
    for (Index at = 0; at < key_limit; at += granule) {
      const Index end = std::min(at + granule, key_limit);
      bool any = false, all = true;
      for (Index j = at; j < end; ++j) {
        for (int lane = 0; lane < rows; ++lane) {
          const bool admits = p.Admits(first + lane, j);
          any |= admits, all &= admits;
        }
      }
      if (any) merger.Add(at, end, !all);
    }
    merger.Flush();
    return;
  }

  Index limit_min = key_limit, limit_max = 0, begin_min = key_limit, begin_max = 0;
  Index end_min = key_limit, end_max = 0, sinks_min = key_limit, sinks_max = 0;
  Index stride = 0, width = 0, residue = 0;
  for (int lane = 0; lane < rows; ++lane) {
    const AdmittedKeys a = p.Admitted(first + lane, key_limit);
    mask->Set(lane, a);
    limit_min = std::min(limit_min, a.limit), limit_max = std::max(limit_max, a.limit);
    begin_min = std::min(begin_min, a.band_begin), begin_max = std::max(begin_max, a.band_begin);
    end_min = std::min(end_min, a.band_end), end_max = std::max(end_max, a.band_end);
    sinks_min = std::min(sinks_min, a.sinks), sinks_max = std::max(sinks_max, a.sinks);
    if (lane == 0) stride = a.stride, width = a.width, residue = a.residue;
  }
  // Lanes of kStrided have residues of their own, one query step apart.
  if (p.mask.pattern == Pattern::kStrided)
    width = p.positions.query_step == 1 ? std::min<Index>(stride, rows) : stride;
  key_runs::Merger merger(run);
  for (Index at = 0; at < limit_max; at += granule) {
    const Index end = std::min(at + granule, limit_max);
    const bool all = (at >= begin_max && end <= end_min) || end <= std::min(sinks_min, limit_min);
    bool any = (at < end_max && end > begin_min) || at < sinks_max;
    if (!any && stride > 0) {
      const Index m = at - residue - key_runs::FloorDiv(at - residue, stride) * stride;
      any = m < width || m + (end - at) > stride;
    }
    if (any) merger.Add(at, end, !all);
  }
  merger.Flush();
}

}  // namespace attnbench
