// SPDX-License-Identifier: Apache-2.0
// The two products of attention as register tiles. Lanes hold queries: a tile is kRows keys (or
// columns of v) times kVectors vectors of queries, whose accumulators stay in registers while one
// row element is broadcast against the packed queries (or probabilities). Nothing is reduced
// across lanes, and neither k nor v need packing.
//
// ScoreTile also carries the exponentials of the block before (Exp2Work): one or more
// vectors of them after every 4 columns of the product, so that their latency hides in it.

#if defined(ATTNBENCH_KERNELS_SIMD_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_TILES_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_TILES_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_TILES_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/simd/exp2-inl.h"
#include "kernels/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

// 16 accumulators of AVX-512's 32 registers (the rest: exponentials), 12 of AVX2's 16.
constexpr int kVectors = 2;
constexpr int kQueries = kVectors * kLanes;
constexpr int kRows = HWY_TARGET <= HWY_AVX3 ? 8 : 6;

// s[r][lane] = start[lane] + sum_c q[c][lane] * k[r][c]: scores, less the running maximum. Also
// their maximum over r into max, and their sum into sum: NaN or Inf there reveals itself.
// kUnits vectors at `work` become 2^x after every 4 columns; returns where that ended.
template <int kUnits, int kDegree>
HWY_NOINLINE float* ScoreTile(const float* HWY_RESTRICT q, const float* HWY_RESTRICT k,
                              Index k_stride, Index head_dim, const float* HWY_RESTRICT start,
                              float* HWY_RESTRICT s, float* HWY_RESTRICT max,
                              float* HWY_RESTRICT sum, float* HWY_RESTRICT work) {
  const DF d;
  VF acc[kRows][kVectors];
  Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
    Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED { acc[r][v] = hn::Load(d, start + v * kLanes); });
  });
  const auto column = [&](Index c) ATTNBENCH_INLINED {
    VF x[kVectors];
    Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED { x[v] = hn::Load(d, q + c * kQueries + v * kLanes); });
    Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
      const VF b = hn::Set(d, k[r * k_stride + c]);
      Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED { acc[r][v] = hn::MulAdd(b, x[v], acc[r][v]); });
    });
  };
  Index c = 0;
  for (; c + 4 <= head_dim; c += 4) {
    Unroll<4>([&](auto u) ATTNBENCH_INLINED { column(c + u); });
    Unroll<kUnits>([&](auto) ATTNBENCH_INLINED {
      hn::Store(Exp2<kDegree>(d, hn::Load(d, work)), d, work);
      work += kLanes;
    });
  }
  for (; c < head_dim; ++c) column(c);
  Unroll<kVectors>([&](auto v) ATTNBENCH_INLINED {
    VF m = hn::Load(d, max + v * kLanes), t = hn::Load(d, sum + v * kLanes);
    Unroll<kRows>([&](auto r) ATTNBENCH_INLINED {
      hn::Store(acc[r][v], d, s + r * kQueries + v * kLanes);
      m = hn::Max(m, acc[r][v]);
      t = hn::Add(t, acc[r][v]);
    });
    hn::Store(m, d, max + v * kLanes);
    hn::Store(t, d, sum + v * kLanes);
  });
  return work;
}

// o[c][lane] (+)= sum_j p[j][lane] * v[j][c] for kColumns columns. Fresh accumulators a block,
// added at its end: a single running sum's error grows with n. kSum: also row_sum[lane] += sum_j
// p[j].
template <int kColumns, bool kSum>
HWY_NOINLINE void OutputTile(const float* HWY_RESTRICT p, const float* HWY_RESTRICT v,
                             Index v_stride, Index keys, bool first, float* HWY_RESTRICT o,
                             float* HWY_RESTRICT row_sum) {
  const DF d;
  VF acc[kColumns][kVectors], total[kVectors];
  Unroll<kVectors>([&](auto u) ATTNBENCH_INLINED {
    total[u] = hn::Zero(d);
    Unroll<kColumns>([&](auto c) ATTNBENCH_INLINED { acc[c][u] = hn::Zero(d); });
  });
  const auto key = [&](Index j) ATTNBENCH_INLINED {
    VF x[kVectors];
    Unroll<kVectors>([&](auto u) ATTNBENCH_INLINED {
      x[u] = hn::Load(d, p + j * kQueries + u * kLanes);
      if constexpr (kSum) total[u] = hn::Add(total[u], x[u]);
    });
    Unroll<kColumns>([&](auto c) ATTNBENCH_INLINED {
      const VF b = hn::Set(d, v[j * v_stride + c]);
      Unroll<kVectors>([&](auto u) ATTNBENCH_INLINED { acc[c][u] = hn::MulAdd(b, x[u], acc[c][u]); });
    });
  };
  Index j = 0;
  for (; j + 4 <= keys; j += 4) Unroll<4>([&](auto u) ATTNBENCH_INLINED { key(j + u); });
  for (; j < keys; ++j) key(j);
  Unroll<kVectors>([&](auto u) ATTNBENCH_INLINED {
    Unroll<kColumns>([&](auto c) ATTNBENCH_INLINED {
      float* to = o + c * kQueries + u * kLanes;
      hn::Store(first ? acc[c][u] : hn::Add(hn::Load(d, to), acc[c][u]), d, to);
    });
    if constexpr (kSum) {
      float* to = row_sum + u * kLanes;
      hn::Store(hn::Add(hn::Load(d, to), total[u]), d, to);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
