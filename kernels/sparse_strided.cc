// SPDX-License-Identifier: Apache-2.0
// sparse_strided: a band (or a block) around the query and every stride-th key beyond it.
//
// columns, fixed: the columns are the same for all queries, so they are gathered once a head into a
// dense buffer, which a block of queries attends beside its band. Columns inside the band's runs
// are left to these; nothing is computed twice.
// strided: (p - j) mod stride = 0 splits keys and queries into residue classes. Gathered class by
// class, it is dense attention inside each class; band and class are computed apart, blocks of
// neighbours for one and blocks of a class for the other, and merged by log-sum-exp. The class
// leaves out what the band has.
//
// strided loses where classes are short (n / stride keys): causal, window 64 and stride 64, it
// computes 1.49 times what it admits at n = 4096, and 1.24 times at 16384.
//
// Papers: Child et al. 2019 (Sparse Transformer: strided, fixed), Xiao et al. 2023 (sinks).
// Engine: simd/attend-inl.h, as in flash.
// Cost: 2 a (d + d_v) flops, a the admitted pairs, and as many more as blocks stick out of the
// band. Workspace O(n (d + d_v)): the gathered columns (n / stride rows), or the classes (n rows)
// and one partial output.
#include <omp.h>

#include <cmath>

#include "kernels/simd/sparse_runs.h"
#include "kernels/simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sparse_strided.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/attend-inl.h"

#ifndef ATTNBENCH_KERNELS_SPARSE_STRIDED_ONCE_
#define ATTNBENCH_KERNELS_SPARSE_STRIDED_ONCE_
#include <numeric>
namespace attnbench {
namespace sparse_strided {

inline Index Mod(Index a, Index b) { return (a % b + b) % b; }

// The columns as key indices; of kStrided, those of the class with residue 0.
inline ColumnKeys ColumnsOf(const Problem& p) {
  if (p.mask.pattern == Mask::Pattern::kStrided) return {p.mask.stride, 0, 1};
  const AdmittedKeys a = p.Admitted(0, p.keys);
  return {a.stride, a.residue, a.width};
}

// Columns that a block meets beside its band: two runs of gathered rows, seen whole but for the
// causal edge.
template <class Run>
void ForEachColumnRun(const Problem& p, const ColumnKeys& columns, Index first, int rows,
                      Index key_limit, const BandCover& cover, Index granule, LaneMask* mask,
                      Run run) {
  LaneRanges left, right;
  const Index begin = columns.Below(cover.sinks), hole_begin = columns.Below(cover.begin);
  const Index hole_end = columns.Below(std::max(cover.end, cover.sinks));
  for (int lane = 0; lane < rows; ++lane) {
    const Index limit = columns.Below(p.Admitted(first + lane, key_limit).limit);
    left.Add(begin, std::min(hole_begin, limit));
    right.Add(hole_end, limit);
    mask->SetRange(lane, 0, limit);
  }
  for (int lane = rows; lane < LaneMask::kLanes; ++lane) mask->SetRange(lane, 0, 0);
  mask->stride = 0;
  mask->admits = nullptr;
  left.ForEach(granule, run);
  right.ForEach(granule, run);
}

// kStrided: query i and the queries `step` apart from it share a class.
inline Index ClassStep(const Problem& p) {
  return p.mask.stride / std::gcd(p.mask.stride, std::abs(p.positions.query_step));
}
inline Index ClassResidue(const Problem& p, Index query) {
  return Mod(p.QueryPosition(query) - p.positions.key_origin, p.mask.stride);
}
// Rows of a class, which are keys residue, residue + stride, ..., that queries first, first + step,
// ... see and that are neither in their band nor sinks.
template <class Run>
void ForEachClassRun(const Problem& p, Index first, int rows, Index key_limit, Index granule,
                     LaneMask* mask, Run run) {
  const ColumnKeys keys{p.mask.stride, ClassResidue(p, first), 1};
  const Index step = ClassStep(p);
  for (const bool right : {false, true}) {
    LaneRanges ranges;
    for (int lane = 0; lane < rows; ++lane) {
      const AdmittedKeys a = p.Admitted(first + lane * step, key_limit);
      const Index sinks = keys.Below(a.sinks);
      const Index begin = right ? std::max(sinks, keys.Below(a.band_end)) : sinks;
      const Index end = std::max(begin, keys.Below(right ? a.limit : a.band_begin));
      ranges.Add(begin, end);
      mask->SetRange(lane, begin, end);
    }
    for (int lane = rows; lane < LaneMask::kLanes; ++lane) mask->SetRange(lane, 0, 0);
    mask->stride = 0;
    mask->admits = nullptr;
    ranges.ForEach(granule, run);
  }
}

}  // namespace sparse_strided
}  // namespace attnbench
#endif

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace sparse_strided {

using namespace attnbench::sparse_strided;  // NOLINT

template <class T>
class Kernel {
 public:
  Kernel(const Problem& p, const Options& options, std::byte* workspace)
      : p_(p), strided_(p.mask.pattern == Mask::Pattern::kStrided), columns_(ColumnsOf(p)) {
    options_ = {.key_block = options["key_block"], .exp_degree = p.dtype == DType::kBF16 ? 3 : 5};
    options_.recompute = !strided_;
    band_ = p;
    band_.mask.pattern = strided_ ? Mask::Pattern::kLocal : p.mask.pattern;
    Arena arena(workspace);
    const Index kv_heads = p.batch * p.kv_heads;
    key_rows_ = KeyStore<T>::Even(p.keys);
    keys_ = KeyStore<T>::Take(p, kv_heads * key_rows_, false, &arena);
    // One sub-store a class, or all columns in one.
    classes_ = strided_ ? std::min(p.mask.stride, p.keys) : 1;
    class_rows_ = KeyStore<T>::Even(strided_ ? (p.keys + p.mask.stride - 1) / p.mask.stride
                                             : columns_.Below(p.keys));
    gathered_ = KeyStore<T>::Take(p, kv_heads * classes_ * class_rows_, true, &arena);
    const Index rows = p.batch * p.heads * p.queries;
    if (strided_) {
      parts_[0] = {arena.Take<float>(rows * p.v_dim), arena.Take<float>(rows)};
      const bool direct = p.out_dtype == DType::kF32;
      parts_[1] = {direct ? nullptr : arena.Take<float>(rows * p.v_dim), arena.Take<float>(rows)};
    }
    bytes_ = arena.bytes();
    engines_ = arena.Take<std::byte>(0);
  }
  std::size_t Bytes(int threads) const { return bytes_ + threads * EngineBytes(); }

  void Run(const Inputs& in, const Output& out, int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Copy(in);
      if (strided_) {
        Classes(in);
        Bands(in, PartOutput(1, out));
#pragma omp barrier
        Merge(in, out);
      } else {
        Bands(in, out);
      }
    }
  }

 private:
  struct Part {
    float* out;
    float* lse;
  };
  std::size_t EngineBytes() const { return Attender<T>::Bytes(p_, options_); }
  std::byte* Engine() const { return engines_ + omp_get_thread_num() * EngineBytes(); }
  Index KeyLimit(const Inputs& in, Index b) const {
    return in.key_lengths ? in.key_lengths[b] : p_.keys;
  }
  KeySource<T> Keys(const Inputs& in, Index b, Index g) const {
    return keys_.At(p_, (b * p_.kv_heads + g) * key_rows_).Source(p_, in, b, g);
  }
  KeyStore<T> Gathered(Index head, Index residue) const {
    return gathered_.At(p_, (head * classes_ + residue) * class_rows_);
  }
  Output PartOutput(int part, const Output& out) const {
    Output o;
    o.lse = parts_[part].lse;
    if (!parts_[part].out) {
      o.out = out.out;
    } else {
      o.out = {parts_[part].out, DType::kF32, p_.heads * p_.queries * p_.v_dim,
               p_.queries * p_.v_dim, p_.v_dim};
    }
    return o;
  }

  // All copies: what the engine does not read in place, and the gathered rows.
  void Copy(const Inputs& in) {
    constexpr Index kChunk = 128;
    const Index heads = p_.batch * p_.kv_heads;
    if (keys_.k || keys_.v) {
      const Index chunks = (p_.keys + kChunk - 1) / kChunk;
#pragma omp for schedule(static) nowait
      for (Index i = 0; i < heads * chunks; ++i) {
        const Index head = i / chunks, b = head / p_.kv_heads, begin = i % chunks * kChunk;
        keys_.At(p_, head * key_rows_)
            .Fill(p_, in, b, head % p_.kv_heads, 0, 1, begin,
                  std::min(begin + kChunk, KeyLimit(in, b)));
      }
    }
    const Index chunks = (class_rows_ + kChunk - 1) / kChunk;
#pragma omp for schedule(static)
    for (Index i = 0; i < heads * classes_ * chunks; ++i) {
      const Index head = i / (classes_ * chunks), residue = i / chunks % classes_;
      const Index b = head / p_.kv_heads, g = head % p_.kv_heads, begin = i % chunks * kChunk;
      const ColumnKeys keys = strided_ ? ColumnKeys{p_.mask.stride, residue, 1} : columns_;
      const Index end = std::min(begin + kChunk, keys.Below(KeyLimit(in, b)));
      const KeyStore<T> store = Gathered(head, residue);
      for (Index r = begin; r < end; r += 2) {  // bf16 is stored in pairs
        const Index key = keys.Key(r), step = r + 1 < end ? keys.Key(r + 1) - key : 0;
        store.Fill(p_, in, b, g, key - r * step, step, r, std::min(r + 2, end));
      }
    }
  }

  // Bands, and the gathered columns that all queries share. kStrided: bands alone.
  void Bands(const Inputs& in, const Output& out) {
    Attender<T> attender(band_, in, out, options_, Engine());
    LaneMask mask;
    const Index blocks = (p_.queries + kQueries - 1) / kQueries;
#pragma omp for schedule(dynamic, 4) nowait
    for (Index item = 0; item < p_.batch * p_.heads * blocks; ++item) {
      const Index b = item / (p_.heads * blocks), h = item / blocks % p_.heads, g = p_.KvHead(h);
      const Index first = item % blocks * kQueries, limit = KeyLimit(in, b);
      const int rows = static_cast<int>(std::min<Index>(kQueries, p_.queries - first));
      const KeySource<T> keys = Keys(in, b, g);
      attender.Begin(b, h, first, rows);
      const BandCover cover = ForEachBandRun(
          band_, first, rows, limit, kRows, &mask, [&](Index begin, Index end, bool masked) {
            attender.Attend(keys, begin, end, masked ? &mask : nullptr);
          });
      if (strided_) continue;
      const KeySource<T> gathered = Gathered(b * p_.kv_heads + g, 0).Source(p_, in, b, g);
      ForEachColumnRun(p_, columns_, first, rows, limit, cover, kRows, &mask,
                       [&](Index begin, Index end, bool masked) {
                         attender.Attend(gathered, begin, end, masked ? &mask : nullptr);
                       });
    }
    attender.Flush();
  }

  void Classes(const Inputs& in) {
    Attender<T> attender(p_, in, PartOutput(0, {}), options_, Engine());
    LaneMask mask;
    const Index step = ClassStep(p_), classes = std::min(step, p_.queries);
#pragma omp for schedule(dynamic, 4) nowait
    for (Index item = 0; item < p_.batch * p_.heads * classes; ++item) {
      const Index b = item / (p_.heads * classes), h = item / classes % p_.heads;
      const Index g = p_.KvHead(h), limit = KeyLimit(in, b);
      for (Index first = item % classes; first < p_.queries; first += kQueries * step) {
        const int rows =
            static_cast<int>(std::min<Index>(kQueries, (p_.queries - first + step - 1) / step));
        const Index residue = ClassResidue(p_, first);
        attender.Begin(b, h, first, rows, step);
        if (residue >= classes_) continue;  // no key has it
        const KeySource<T> keys = Gathered(b * p_.kv_heads + g, residue).Source(p_, in, b, g);
        ForEachClassRun(p_, first, rows, limit, kRows, &mask,
                        [&](Index begin, Index end, bool masked) {
                          attender.Attend(keys, begin, end, masked ? &mask : nullptr);
                        });
      }
    }
    attender.Flush();
  }

  void Merge(const Inputs& in, const Output& out) {
    const Output first = PartOutput(0, out), second = PartOutput(1, out);
#pragma omp for schedule(static)
    for (Index row = 0; row < p_.batch * p_.heads * p_.queries; ++row) {
      const Index b = row / (p_.heads * p_.queries), h = row / p_.queries % p_.heads;
      const Index i = row % p_.queries;
      const float x = first.lse[row], y = second.lse[row];
      if (std::isnan(x) || std::isnan(y)) {
        RecomputeRow(p_, in, out, b, h, i);
        continue;
      }
      const float max = std::max(x, y);
      const bool none = max == -HUGE_VALF;
      const float ex = none ? 0 : std::exp(x - max), ey = none ? 0 : std::exp(y - max);
      const float sum = none ? 1 : ex + ey;
      if (out.lse) out.lse[row] = none ? max : max + std::log(sum);
      const float* from0 = first.out.Row<float>(b, h, i);
      const float* from1 = second.out.Row<float>(b, h, i);
      if (out.out.dtype == DType::kBF16) {
        Blend(from0, from1, ex / sum, ey / sum, out.out.Row<BFloat16>(b, h, i));
      } else {
        Blend(from0, from1, ex / sum, ey / sum, out.out.Row<float>(b, h, i));
      }
    }
  }
  template <class TO>
  HWY_INLINE void Blend(const float* x, const float* y, float a, float b, TO* to) const {
    for (Index c = 0; c < p_.v_dim; ++c) {
      const float value = a * x[c] + b * y[c];
      if constexpr (std::is_same_v<TO, float>) {
        to[c] = value;
      } else {
        to[c] = BFloat16::FromFloat(value);
      }
    }
  }

  const Problem& p_;
  const bool strided_;
  const ColumnKeys columns_;
  Problem band_;
  AttendOptions options_;
  KeyStore<T> keys_, gathered_;
  Index key_rows_, classes_, class_rows_;
  Part parts_[2] = {};
  std::byte* engines_;
  std::size_t bytes_;
};

}  // namespace sparse_strided

std::size_t SparseStridedWorkspace(const Problem& p, const Options& options, int threads) {
#if HWY_TARGET <= HWY_AVX3_ZEN4
  if (p.dtype == DType::kBF16)
    return sparse_strided::Kernel<BFloat16>(p, options, nullptr).Bytes(threads);
#endif
  return sparse_strided::Kernel<float>(p, options, nullptr).Bytes(threads);
}

void SparseStridedRun(const Problem& p, const Inputs& in, const Output& out,
                      const Context& context) {
#if HWY_TARGET <= HWY_AVX3_ZEN4
  if (p.dtype == DType::kBF16)
    return sparse_strided::Kernel<BFloat16>(p, *context.options, context.workspace)
        .Run(in, out, context.threads);
#endif
  sparse_strided::Kernel<float>(p, *context.options, context.workspace)
      .Run(in, out, context.threads);
}

Index SparseStridedQueryBlock() { return kQueries; }

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {
namespace {

HWY_EXPORT(SparseStridedRun);
HWY_EXPORT(SparseStridedWorkspace);
HWY_EXPORT(SparseStridedQueryBlock);

std::string Refuse(const Problem& p, const Options&) {
  if (p.keys >= std::numeric_limits<std::int32_t>::max()) return "2^31 keys or more";
  if (p.positions.key_step != 1) return "positions with key steps other than 1 are not served";
  return Unserved(
      p, {.patterns = {Mask::Pattern::kStrided, Mask::Pattern::kColumns, Mask::Pattern::kFixed},
          .bf16 = true,
          .key_lengths = true});
}

Cost Executed(const Problem& p, const Options&) {
  const Index block = HWY_DYNAMIC_DISPATCH(SparseStridedQueryBlock)();
  const bool strided = p.mask.pattern == Mask::Pattern::kStrided;
  const ColumnKeys columns = sparse_strided::ColumnsOf(p);
  LaneMask mask;
  double pairs = 0;
  const auto count = [&](Index begin, Index end, bool) { pairs += block * (end - begin); };
  for (Index first = 0; first < p.queries; first += block) {
    const int rows = static_cast<int>(std::min(block, p.queries - first));
    const BandCover cover = ForEachBandRun(p, first, rows, p.keys, 8, &mask, count);
    if (!strided)
      sparse_strided::ForEachColumnRun(p, columns, first, rows, p.keys, cover, 8, &mask, count);
  }
  const Index step = strided ? sparse_strided::ClassStep(p) : 0;
  for (Index i = 0; i < std::min(step, p.queries); ++i) {
    for (Index first = i; first < p.queries; first += block * step)
      sparse_strided::ForEachClassRun(
          p, first, static_cast<int>(std::min(block, (p.queries - first + step - 1) / step)),
          p.keys, 8, &mask, count);
  }
  pairs *= p.batch * p.heads;
  Cost cost = p.Useful();
  cost.flops = 2.0 * (p.head_dim + p.v_dim) * pairs;
  cost.exps = pairs;
  const double gathered = static_cast<double>(p.batch) * p.kv_heads *
                          (strided ? p.keys : columns.Below(p.keys)) * (p.head_dim + p.v_dim);
  cost.bytes += 2 * SizeOf(p.dtype) * gathered;
  return cost;
}

ATTN_KERNEL(
        .name = "sparse_strided",
        .idea = "band and every stride-th key, gathered once into dense rows", .provides = kLse,
        .options = {{"key_block", 64, 16, 1024, "keys whose scores are in flight at once"}},
        .refuse = Refuse, .executed = Executed,
        .workspace =
            [](const Problem& p, const Options& options, int threads) {
              return HWY_DYNAMIC_DISPATCH(SparseStridedWorkspace)(p, options, threads);
            },
        .run = [](const Problem& p, const Inputs& in, const Output& out,
                  const Context& c) { HWY_DYNAMIC_DISPATCH(SparseStridedRun)(p, in, out, c); },
        .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
#endif
