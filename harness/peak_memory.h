// SPDX-License-Identifier: Apache-2.0
// How much memory becomes resident from here on, at the most: by the kernel's own high-water mark
// of this process, reset. (A child's ru_maxrss may be that of its parent.)
#pragma once

namespace attnbench {

class PeakMemory {
 public:
  PeakMemory();
  double Bytes() const;

  // Memory that the heap keeps is resident already and would hide what is taken of it: large pieces
  // shall come from the system, each time. To be called before the first.
  static void ExposeHeap();

 private:
  double before_;
};

}  // namespace attnbench
