// SPDX-License-Identifier: Apache-2.0
// What a case will take, before it is run: memory by the contract's own figures, time by what the
// same kernel took at smaller sizes. Guards, --dry-run, shards and the ETA all ask here.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "harness/case.h"

namespace attnbench {

struct Demand {
  double tensor_bytes = 0;     // inputs and output
  double workspace_bytes = 0;  // 0 for kernels hosted in Python: theirs is not known beforehand
  double work =
      0;  // flops the kernel will execute, an exponential counted as ten; of a peer: useful
  double bytes() const { return tensor_bytes + workspace_bytes; }
};
// The case must not be refused.
Demand DemandOf(const Case& c);

// What cases that differ in size only have in common: kernel, options, mask pattern, dtype,
// threads, cache state.
std::string Family(const Case& c);

class TimePredictor {
 public:
  void Learn(const std::string& family, double work, double run_s, Index keys);

  struct Prediction {
    double run_s = 0;
    Index from_keys = 0;  // size of the measurement that it rests on
  };
  // From the largest measurement of the family that is no larger than this. Empty when there is
  // none.
  std::optional<Prediction> FromSmaller(const std::string& family, double work) const;
  // The same, or else a guess at a rate that most kernels reach.
  double RunSeconds(const std::string& family, double work, int threads) const;

 private:
  struct Measured {
    double run_s;
    Index keys;
  };
  std::map<std::string, std::map<double, Measured>> families_;  // the last, by work
};

// "48.4 GiB", "0.25 ms": three digits and a unit.
std::string FormatBytes(double bytes);
std::string FormatSeconds(double seconds);

}  // namespace attnbench
