// SPDX-License-Identifier: Apache-2.0
// The keys that a block of consecutive queries sees, as runs for Attender::Attend: nothing for what
// nobody sees. The engine cuts a run finer, by its LaneMask.
#pragma once

#include <cstdlib>

#include "kernels/simd/attend.h"

namespace attnbench {

struct RowRange {
  Index begin = 0, end = 0;
};

// All patterns. Fills `mask` for queries first ... first + rows - 1 and calls run(begin, end,
// mask), in ascending order; the mask is null where every query sees the run whole, and is to be
// read at once. key_limit: keys there are.
template <class Run>
void ForEachKeyRun(const Problem& p, Index first, int rows, Index key_limit, LaneMask* mask,
                   Run run);

// Sinks and the band (or the block, or all) around the query, without the patterns' columns. The
// work does not grow with the number of keys.
template <class Run>
void ForEachBandRun(const Problem& p, Index first, int rows, Index key_limit, LaneMask* mask,
                    Run run);

namespace key_runs {

inline Index FloorDiv(Index a, Index b) { return a / b - (a % b != 0 && (a % b < 0) != (b < 0)); }

// Whether what is seen moves by at most one key from query to query.
inline bool Steady(const Problem& p) {
  return std::abs(p.positions.query_step) == 1 && p.mask.pattern != Mask::Pattern::kFixed;
}

// Lanes [low, high], of which the ends are known. Steady ranges that differ by nothing or by one a
// lane at the ends do so between them; else by halves.
template <class Range>
void SetLanes(LaneMask* mask, int low, int high, RowRange at_low, RowRange at_high, bool steady,
              const Range& range) {
  const Index span = high - low, begin = at_high.begin - at_low.begin;
  const Index end = at_high.end - at_low.end;
  const auto straight = [&](Index x) { return x == 0 || x == span || x == -span; };
  if (span <= 1 || (steady && straight(begin) && straight(end))) {
    const auto unit = [](Index x) { return static_cast<std::int32_t>((x > 0) - (x < 0)); };
    const auto b = static_cast<std::int32_t>(at_low.begin),
               e = static_cast<std::int32_t>(at_low.end);
    const std::int32_t begin_step = unit(begin), end_step = unit(end);
    for (int lane = low; lane < high; ++lane) {
      mask->begin[lane] = b + (lane - low) * begin_step;
      mask->end[lane] = e + (lane - low) * end_step;
    }
    mask->begin[high] = static_cast<std::int32_t>(at_high.begin);
    mask->end[high] = static_cast<std::int32_t>(at_high.end);
    return;
  }
  const int middle = (low + high) / 2;
  const RowRange at_middle = range(middle);
  SetLanes(mask, low, middle, at_low, at_middle, steady, range);
  SetLanes(mask, middle, high, at_middle, at_high, steady, range);
}

// Makes the mask of ranges that move one way from lane to lane, steady or not, and runs over what
// they cover.
template <class Range, class Run>
void RunOver(LaneMask* mask, int rows, bool steady, const Range& range, const Run& run) {
  const RowRange at_first = range(0), at_last = rows > 1 ? range(rows - 1) : at_first;
  const Index begin = std::min(at_first.begin, at_last.begin);
  const Index end = std::max(at_first.end, at_last.end);
  if (begin >= end) return;
  SetLanes(mask, 0, rows - 1, at_first, at_last, steady, range);
  std::fill(mask->begin + rows, mask->begin + LaneMask::kLanes, mask->begin[rows - 1]);
  std::fill(mask->end + rows, mask->end + LaneMask::kLanes, mask->end[rows - 1]);
  mask->ranges = true;
  run(begin, end, mask);
}

// Merges neighbours of one kind.
template <class Run>
class Merger {
 public:
  Merger(const LaneMask* mask, Run run) : mask_(mask), run_(run) {}
  void Add(Index begin, Index end, bool masked) {
    if (begin == end_ && masked == masked_) {
      end_ = end;
      return;
    }
    Flush();
    begin_ = begin, end_ = end, masked_ = masked;
  }
  void Flush() {
    if (end_ > begin_) run_(begin_, end_, masked_ ? mask_ : nullptr);
    begin_ = end_;
  }

 private:
  const LaneMask* mask_;
  Run run_;
  Index begin_ = 0, end_ = 0;
  bool masked_ = false;
};

constexpr Index kGranule = 8;  // how finely runs are cut where there is no closed form, or columns

// Tiles, keys in strides: by the predicate, wherever it may admit.
struct Predicate {
  const Problem* problem;
  Index first;
  int rows;
  static bool Admits(const void* context, int lane, Index key) {
    const auto& self = *static_cast<const Predicate*>(context);
    return self.problem->Admits(self.first + std::min(lane, self.rows - 1), key);
  }
};
template <class Run>
void ByPredicate(const Problem& p, Index first, int rows, Index key_limit, LaneMask* mask,
                 Run run) {
  const Predicate predicate{&p, first, rows};
  mask->ranges = false;
  mask->stride = 0;
  mask->admits = Predicate::Admits;
  mask->context = &predicate;
  std::fill_n(mask->limit, LaneMask::kLanes, static_cast<std::int32_t>(key_limit));
  Merger merger(mask, run);
  for (Index at = 0; at < key_limit; at += kGranule) {
    const Index end = std::min(at + kGranule, key_limit);
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
}

// Patterns with columns, band and columns together.
template <class Run>
void WithColumns(const Problem& p, Index first, int rows, Index key_limit, LaneMask* mask,
                 Run run) {
  Index limit_min = key_limit, limit_max = 0, begin_min = key_limit, begin_max = 0;
  Index end_min = key_limit, end_max = 0, sinks_min = key_limit, sinks_max = 0;
  AdmittedKeys a;
  for (int lane = 0; lane < rows; ++lane) {
    a = p.Admitted(first + lane, key_limit);
    mask->Set(lane, a);
    limit_min = std::min(limit_min, a.limit), limit_max = std::max(limit_max, a.limit);
    begin_min = std::min(begin_min, a.band_begin), begin_max = std::max(begin_max, a.band_begin);
    end_min = std::min(end_min, a.band_end), end_max = std::max(end_max, a.band_end);
    sinks_min = std::min(sinks_min, a.sinks), sinks_max = std::max(sinks_max, a.sinks);
  }
  for (int lane = rows; lane < LaneMask::kLanes; ++lane) mask->Set(lane, a);
  mask->ranges = false;
  mask->admits = nullptr;
  // Lanes of kStrided have residues of their own, one query step apart.
  mask->same_residue = p.mask.pattern != Mask::Pattern::kStrided;
  const Index residue = mask->residue[0];
  const Index width = mask->same_residue            ? mask->width
                      : p.positions.query_step == 1 ? std::min<Index>(a.stride, rows)
                                                    : a.stride;
  Merger merger(mask, run);
  for (Index at = 0; at < limit_max; at += kGranule) {
    const Index end = std::min(at + kGranule, limit_max);
    const bool all = (at >= begin_max && end <= end_min) || end <= std::min(sinks_min, limit_min);
    bool any = (at < end_max && end > begin_min) || at < sinks_max;
    if (!any) {
      const Index m = at - residue - FloorDiv(at - residue, a.stride) * a.stride;
      any = m < width || m + (end - at) > a.stride;
    }
    if (any) merger.Add(at, end, !all);
  }
  merger.Flush();
}

}  // namespace key_runs

template <class Run>
void ForEachBandRun(const Problem& p, Index first, int rows, Index key_limit, LaneMask* mask,
                    Run run) {
  const bool steady = key_runs::Steady(p);
  if (p.mask.sinks > p.positions.key_origin && p.mask.pattern != Mask::Pattern::kFull) {
    key_runs::RunOver(
        mask, rows, steady,
        [&](int lane) { return RowRange{0, p.Admitted(first + lane, key_limit).sinks}; }, run);
  }
  key_runs::RunOver(
      mask, rows, steady,
      [&](int lane) {
        const AdmittedKeys a = p.Admitted(first + lane, key_limit);
        if (p.mask.pattern == Mask::Pattern::kFull) return RowRange{0, a.limit};
        return RowRange{std::max(a.band_begin, a.sinks), a.band_end};
      },
      run);
}

template <class Run>
void ForEachKeyRun(const Problem& p, Index first, int rows, Index key_limit, LaneMask* mask,
                   Run run) {
  using Pattern = Mask::Pattern;
  if (p.mask.pattern == Pattern::kFull && !p.mask.causal) {
    if (key_limit > 0) run(Index{0}, key_limit, static_cast<const LaneMask*>(nullptr));
  } else if (!p.HasClosedForm()) {
    key_runs::ByPredicate(p, first, rows, key_limit, mask, run);
  } else if (p.mask.pattern == Pattern::kFull || p.mask.pattern == Pattern::kLocal) {
    ForEachBandRun(p, first, rows, key_limit, mask, run);
  } else {
    key_runs::WithColumns(p, first, rows, key_limit, mask, run);
  }
}

}  // namespace attnbench
