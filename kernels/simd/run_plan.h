// SPDX-License-Identifier: Apache-2.0
// The runs of every block of queries, found beforehand: they depend on the mask alone, so all heads
// share them, and where runs are short, finding them takes as long as attending them (fixed blocks
// of 44 keys: a quarter of the time).
#pragma once

#include "kernels/simd/attend.h"

namespace attnbench {

class RunPlan {
 public:
  // lanes: of a block of queries.
  explicit RunPlan(Index lanes) : lanes_(lanes) {}

  // Appends a block of `rows` queries: runs(&mask, run) calls run(begin, end, mask) as
  // ForEachKeyRun does, in ascending order. Masks must be ranges, or ranges and leading rows.
  template <class Runs>
  void Add(int rows, Runs runs) {
    rows_.push_back(rows);
    LaneMask mask;
    if (rows > 0) {
      runs(&mask, [&](Index begin, Index end, const LaneMask* seen) {
        // Where the first queries see further than the last ones, as global tokens do, the rest is
        // a run of its own: the engine leaves out a vector at the end only if it is the first.
        const Index last_end = seen && seen->ranges ? LastEnd(*seen, begin, end) : end;
        Store(begin, last_end, seen);
        Store(last_end, end, seen);
      });
    }
    first_run_.push_back(std::ssize(runs_));
  }

  Index blocks() const { return std::ssize(rows_); }
  int rows(Index block) const { return rows_[block]; }

  // Calls run(begin, end, mask) for the runs of a block, as they were added, cut at `limit`.
  template <class F>
  void ForEach(Index block, Index limit, LaneMask* mask, F run) const {
    for (Index r = first_run_[block]; r < first_run_[block + 1]; ++r) {
      const Run& at = runs_[r];
      const Index end = std::min<Index>(at.end, limit);
      if (at.begin >= end) return;
      if (at.mask < 0) {
        run(Index{at.begin}, end, static_cast<const LaneMask*>(nullptr));
        continue;
      }
      const std::int32_t* from = masks_.data() + Index{kParts} * at.mask * lanes_;
      std::copy_n(from, lanes_, mask->begin);
      std::copy_n(from + lanes_, lanes_, mask->end);
      mask->ranges = at.ranges;
      if (!at.ranges) {
        std::copy_n(from + 2 * lanes_, lanes_, mask->sinks);
        mask->SetLeading(static_cast<std::int32_t>(end));
      }
      run(Index{at.begin}, end, static_cast<const LaneMask*>(mask));
    }
  }

 private:
  // What the second half of the queries sees, rounded up.
  Index LastEnd(const LaneMask& seen, Index begin, Index end) const {
    constexpr Index kStep = 16;
    Index last = begin;
    for (Index q = lanes_ / 2; q < lanes_; ++q)
      if (seen.begin[q] < seen.end[q]) last = std::max<Index>(last, seen.end[q]);
    return std::min(end, begin + (last - begin + kStep - 1) / kStep * kStep);
  }
  void Store(Index begin, Index end, const LaneMask* seen) {
    if (begin >= end) return;
    Run run{static_cast<std::int32_t>(begin), static_cast<std::int32_t>(end), -1, true};
    if (seen) {
      run.mask = static_cast<std::int32_t>(std::ssize(masks_) / (kParts * lanes_));
      run.ranges = seen->ranges;
      for (const std::int32_t* part : {seen->begin, seen->end, seen->sinks})
        masks_.insert(masks_.end(), part, part + lanes_);
    }
    runs_.push_back(run);
  }

  static constexpr int kParts = 3;
  struct Run {
    std::int32_t begin, end;
    std::int32_t mask;  // which of masks_; -1: every query sees the run whole
    bool ranges;
  };
  Index lanes_;
  std::vector<int> rows_;               // of each block
  std::vector<Index> first_run_ = {0};  // of each block, and the end
  std::vector<Run> runs_;
  std::vector<std::int32_t> masks_;  // [..][kParts][lanes]: begins, ends, sinks
};

}  // namespace attnbench
