// SPDX-License-Identifier: Apache-2.0
#include "harness/schedule.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "harness/inputs.h"

namespace attnbench {
namespace {

// Fisher and Yates by our own generator: std::shuffle differs between standard libraries, and a
// logged seed should mean the same order everywhere.
template <class T>
void Shuffle(std::vector<T>* items, Random* random) {
  for (std::size_t i = items->size(); i > 1; --i)
    std::swap((*items)[i - 1],
              (*items)[static_cast<std::size_t>(random->Below(static_cast<Index>(i)))]);
}

// Each key's members keep the set of places that the shuffle gave them, smallest work first.
void SmallestFirst(const std::vector<Planned>& cases, std::vector<std::size_t>* order) {
  std::map<std::string, std::vector<std::size_t>> places;
  for (std::size_t place = 0; place < order->size(); ++place)
    places[cases[(*order)[place]].family].push_back(place);
  for (const auto& [family, at] : places) {
    std::vector<std::size_t> members;
    for (const std::size_t place : at) members.push_back((*order)[place]);
    std::stable_sort(members.begin(), members.end(),
                     [&](std::size_t a, std::size_t b) { return cases[a].work < cases[b].work; });
    for (std::size_t i = 0; i < at.size(); ++i) (*order)[at[i]] = members[i];
  }
}

std::vector<std::vector<std::size_t>> ByProblem(const std::vector<Planned>& cases) {
  std::map<std::string, std::size_t> index;
  std::vector<std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const auto [it, fresh] = index.insert({cases[i].problem, groups.size()});
    if (fresh) groups.emplace_back();
    groups[it->second].push_back(i);
  }
  return groups;
}

}  // namespace

std::vector<std::size_t> RoundOrder(const std::vector<Planned>& cases, int round,
                                    std::uint64_t seed, bool by_problem) {
  Random random(seed * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(round) + 1);
  if (!by_problem) {
    std::vector<std::size_t> order(cases.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    Shuffle(&order, &random);
    if (round == 0) SmallestFirst(cases, &order);
    return order;
  }
  std::vector<std::vector<std::size_t>> groups = ByProblem(cases);
  Shuffle(&groups, &random);
  for (auto& group : groups) Shuffle(&group, &random);
  if (round == 0) {
    const auto least = [&](const std::vector<std::size_t>& group) {
      double work = cases[group[0]].work;
      for (const std::size_t i : group) work = std::min(work, cases[i].work);
      return work;
    };
    std::stable_sort(groups.begin(), groups.end(),
                     [&](const auto& a, const auto& b) { return least(a) < least(b); });
  }
  std::vector<std::size_t> order;
  for (const auto& group : groups) order.insert(order.end(), group.begin(), group.end());
  return order;
}

namespace {

constexpr double kStart = 1e8;           // starting a child, in units of work
constexpr double kUnevenness = 1.1;      // of the heaviest shard, over the least that is possible
using Group = std::vector<std::size_t>;  // cases of one shard, by index

double Weight(const std::vector<Planned>& cases, const Group& group) {
  double work = 0;
  for (const std::size_t i : group) work += kStart + cases[i].work;
  return work;
}

// Which shard each group goes to: heaviest first, each to the shard that has least so far.
std::vector<std::size_t> Deal(const std::vector<double>& weights, std::vector<double>* loads) {
  std::vector<std::size_t> shard_of;
  std::fill(loads->begin(), loads->end(), 0.0);
  for (const double weight : weights) {
    const auto least = std::min_element(loads->begin(), loads->end());
    *least += weight;
    shard_of.push_back(static_cast<std::size_t>(least - loads->begin()));
  }
  return shard_of;
}

}  // namespace

std::vector<Case> Shard(const std::vector<Planned>& cases, int index, int count,
                        bool whole_problems) {
  std::vector<Group> groups = ByProblem(cases);
  double total = 0, heaviest_case = 0;
  for (Group& group : groups)  // by hash, here and in ties: the order of the file does not matter
    std::sort(group.begin(), group.end(),
              [&](std::size_t a, std::size_t b) { return cases[a].hash < cases[b].hash; });
  const auto heavier = [&](const Group& a, const Group& b) {
    const double wa = Weight(cases, a), wb = Weight(cases, b);
    return wa != wb ? wa > wb : cases[a[0]].hash < cases[b[0]].hash;
  };
  std::sort(groups.begin(), groups.end(), heavier);
  for (const Group& group : groups) {
    total += Weight(cases, group);
    for (const std::size_t i : group) heaviest_case = std::max(heaviest_case, Weight(cases, {i}));
  }
  const double bound = kUnevenness * std::max(total / count, heaviest_case);
  std::vector<double> loads(static_cast<std::size_t>(count));
  std::vector<std::size_t> shard_of;
  for (;;) {
    std::vector<double> weights;
    for (const Group& group : groups) weights.push_back(Weight(cases, group));
    shard_of = Deal(weights, &loads);
    const auto joint = std::find_if(groups.begin(), groups.end(),
                                    [](const Group& group) { return group.size() > 1; });
    if (whole_problems || joint == groups.end() ||
        *std::max_element(loads.begin(), loads.end()) <= bound)
      break;
    const Group parted = *joint;  // the heaviest problem that is still whole
    groups.erase(joint);
    for (const std::size_t i : parted) groups.push_back({i});
    std::sort(groups.begin(), groups.end(), heavier);
  }
  std::vector<std::size_t> mine;
  for (std::size_t g = 0; g < groups.size(); ++g)
    if (shard_of[g] == static_cast<std::size_t>(index - 1))
      mine.insert(mine.end(), groups[g].begin(), groups[g].end());
  std::sort(mine.begin(), mine.end());
  std::vector<Case> shard;
  for (const std::size_t i : mine) shard.push_back(cases[i].c);
  return shard;
}

double Budget::Fixed(const Visits& visits) const {
  return visits.runs_s + static_cast<double>(visits.first) * first_.mean() +
         static_cast<double>(visits.later) * later_.mean();
}

double Budget::Slice(double elapsed_s, const Visits& left) const {
  if (!limited()) return longest_s_;
  const double visits = static_cast<double>(std::max<std::size_t>(1, left.first + left.later));
  const double for_samples = 0.97 * budget_s_ - elapsed_s - Fixed(left);
  return std::clamp(for_samples / visits, std::min(kShortest, longest_s_), longest_s_);
}

void Budget::Learn(bool first, double wall_s, double run_s, double slice_s) {
  Overhead& overhead = first ? first_ : later_;
  overhead.total_s +=
      std::max(0.0, wall_s - (first ? kRunsFirst : kRunsLater) * run_s - std::max(slice_s, run_s));
  overhead.count += 1;
}

bool Budget::Fits(double elapsed_s, const Visits& visits) const {
  if (!limited()) return true;
  return elapsed_s + Fixed(visits) + kShortest * static_cast<double>(visits.later) <= budget_s_;
}

double Budget::Rest(double elapsed_s, const Visits& left) const {
  const double slice = Slice(elapsed_s, left);
  const double rest = Fixed(left) + slice * static_cast<double>(left.first + left.later);
  if (!limited()) return rest;
  // The first visits are made in any case, the later ones only within the budget.
  const double visits = static_cast<double>(std::max<std::size_t>(1, left.first + left.later));
  const double certain = rest * static_cast<double>(left.first) / visits;
  return std::max(certain, std::min(rest, budget_s_ - elapsed_s));
}

}  // namespace attnbench
