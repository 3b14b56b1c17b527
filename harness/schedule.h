// SPDX-License-Identifier: Apache-2.0
// In which order cases are visited, by whom (shards), and how long each visit may take (budget).
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "harness/case.h"

namespace attnbench {

struct Planned {
  Case c;
  std::string hash, problem, family;
  double work = 0;   // see Demand
  double bytes = 0;  // of tensors and workspace
};

// The cases of one round, by index: shuffled anew each round from the seed, so that drift of the
// machine hits all alike. In round 0 the members of a family keep their places but come smallest
// first, for the guard on time predicts the larger from the smaller. by_problem keeps the kernels
// of a problem together, in shuffled order.
std::vector<std::size_t> RoundOrder(const std::vector<Planned>& cases, int round,
                                    std::uint64_t seed, bool by_problem);

// Shard `index` (from 1) of `count`, the same on every machine: the heaviest has at most a tenth
// more work than an even share, or than the heaviest case, which no partition can undercut. The
// cases of a problem, within which ratios are taken, stay together as far as that allows: the
// heaviest problems are parted first, and with whole_problems none.
std::vector<Case> Shard(const std::vector<Planned>& cases, int index, int count,
                        bool whole_problems);

// Rounds that are done. Few come out of turn, so that the set stays small however many there are.
class Rounds {
 public:
  void Insert(int round) {
    if (Contains(round)) return;
    out_of_turn_.insert(round);
    for (; out_of_turn_.erase(first_) > 0; ++first_) {
    }
  }
  bool Contains(int round) const {
    return (round >= 0 && round < first_) || out_of_turn_.count(round) > 0;
  }
  int size() const { return first_ + static_cast<int>(out_of_turn_.size()); }
  std::size_t kept() const { return out_of_turn_.size(); }

 private:
  int first_ = 0;  // that is not done
  std::set<int> out_of_turn_;
};

// Visits that are still to come: a case's first (with its check and its memory pass) and the later.
struct Visits {
  std::size_t first = 0, later = 0;
  double runs_s = 0;  // of the single runs that every visit makes besides its samples
};

// Splits a budget over the visits that are left. What a visit costs besides runs and samples
// (spawning, inputs, the oracle) is learned as the sweep goes on.
class Budget {
 public:
  // Runs besides the samples: warm-up; and in a first visit check and memory pass.
  static constexpr double kRunsFirst = 3, kRunsLater = 1;

  Budget(double budget_s, double longest_s) : budget_s_(budget_s), longest_s_(longest_s) {}
  bool limited() const { return budget_s_ > 0; }
  double budget_s() const { return budget_s_; }
  // Seconds of timing for the next visit.
  double Slice(double elapsed_s, const Visits& left) const;
  void Learn(bool first, double wall_s, double run_s, double slice_s);
  // Whether these visits still fit.
  bool Fits(double elapsed_s, const Visits& visits) const;
  // Predicted seconds of the visits that are left.
  double Rest(double elapsed_s, const Visits& left) const;

 private:
  static constexpr double kShortest = 0.02;
  struct Overhead {
    double total_s, count;  // starts as one imagined visit
    double mean() const { return total_s / count; }
  };
  double Fixed(const Visits& visits) const;

  double budget_s_, longest_s_;
  Overhead first_{0.4, 1}, later_{0.2, 1};
};

}  // namespace attnbench
