// SPDX-License-Identifier: Apache-2.0
// A team of threads, or none.
#pragma once

#include <omp.h>

namespace attnbench {

// f(thread) on each of `threads` threads; worksharing within f is theirs. One thread needs no team:
// libgomp takes 0.3 us to make one and to dissolve it, 5 % of the shortest calls. Within a region
// it does, or f would share the work of that one.
template <class F>
void OnThreads(int threads, F f) {
  if (threads == 1 && omp_get_level() == 0) return f(0);
#pragma omp parallel num_threads(threads)
  f(omp_get_thread_num());
}

}  // namespace attnbench
