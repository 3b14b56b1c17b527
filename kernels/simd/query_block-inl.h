// SPDX-License-Identifier: Apache-2.0
// A block of queries under way in the engine (attend-inl.h), and its two ends: queries into lanes
// when it begins, outputs back into rows when it has seen its keys. A computation in two passes
// over the keys leaves its state in a Partial in between.

#if defined(ATTNBENCH_KERNELS_SIMD_QUERY_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_QUERY_BLOCK_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_QUERY_BLOCK_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_QUERY_BLOCK_INL_H_
#endif

#include <cmath>

#include "hwy/highway.h"
#include "kernels/simd/attend.h"
#include "kernels/simd/tiles-inl.h"
#include "kernels/simd/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

struct QueryBlock {
  Index batch = 0, head = 0, first = 0, step = 1;
  int rows = 0;
  bool open = false;  // gets more keys
  bool empty = true;  // o holds nothing yet
  float* q;           // [words][kQueries]; float32: times scale * log2(e)
  float* o;           // [v_dim][kQueries]
  float* start;       // minus the reference that scores are relative to
  float* sum;         // of the probabilities
  float* low;         // -threshold until the first admitted key, then -inf
};

// NaN or Inf among the scores of vector q, which `sum` reveals, makes the row's sum NaN, whatever
// the exponential makes of it.
HWY_INLINE void PoisonSum(const QueryBlock& b, int q, VF sum) {
  hn::Store(hn::MulAdd(sum, hn::Zero(DF()), hn::Load(DF(), b.sum + q)), DF(), b.sum + q);
}

// Into the second level: the first has no room for what is wanted a block later.
inline void FetchLines(const void* row, Index bytes) {
  for (Index at = 0; at < bytes; at += 64)
    __builtin_prefetch(static_cast<const std::byte*>(row) + at, 0, 2);
}

template <class T>
class BlockEnds {
 public:
  BlockEnds(const Problem& problem, const Inputs& inputs, const Output& output,
            const AttendOptions& options)
      : p_(problem), in_(inputs), out_(output), options_(options) {}

  // Instead of outputs, leave partial ones.
  void SaveTo(const Partial& partial) { save_ = partial; }
  // Blocks start from what another pass left of their queries.
  void ResumeFrom(const Partial& partial) { resume_ = partial; }

  Index QueryWords() const { return (p_.head_dim + W::kElements - 1) / W::kElements; }
  float LogitFactor() const { return static_cast<float>(p_.scale * 1.4426950408889634); }
  float Threshold() const { return options_.lazy_max ? 16.0f : 0.0f; }

  void Take(Arena* arena, QueryBlock* b) const {
    b->q = arena->Take<float>(QueryWords() * kQueries);
    b->o = arena->Take<float>(p_.v_dim * kQueries);
    b->start = arena->Take<float>(kQueries);
    b->sum = arena->Take<float>(kQueries);
    b->low = arena->Take<float>(kQueries);
  }

  // The block's queries are told; everything else of it starts here.
  void Start(QueryBlock* b) const;

  // Moves the reference of vector q where the new scores, of which `max` is the maximum, are too
  // far from it, which rescales what the block has so far; they lie at s, a vector every `pitch`.
  // Rare when lazy. exact: a query's first reference is its maximum. That matters to rows of few
  // keys, whose largest probability is then exact: 1, or in bf16 sqrt(2), which loses only 1e-4
  // when rounded.
  HWY_INLINE void MoveReference(QueryBlock* b, int q, VF max, bool exact, float* s, Index keys,
                                Index pitch) const {
    const DF d;
    const VF nothing = hn::Set(d, -3e38f), minus_inf = hn::Set(d, -HUGE_VALF);
    const VF low = hn::Load(d, b->low + q);
    const auto seen = hn::Gt(max, nothing);
    VF high = hn::Set(d, Threshold());
    if (exact) high = hn::IfThenElse(hn::Gt(low, nothing), nothing, high);
    hn::Store(hn::IfThenElse(seen, minus_inf, low), d, b->low + q);
    const auto move = hn::Or(hn::Gt(max, high), hn::And(seen, hn::Lt(max, low)));
    if (hn::AllFalse(d, move)) return;
    const VF delta = hn::IfThenElseZero(move, max);
    hn::Store(hn::Sub(hn::Load(d, b->start + q), delta), d, b->start + q);
    for (Index j = 0; j < keys; ++j) {
      float* x = s + j * pitch;
      hn::Store(hn::Sub(hn::Load(d, x), delta), d, x);
    }
    // A downward move is a first one: there is nothing to scale, and the factor stays finite.
    const VF factor = Exp2<5>(d, hn::Min(hn::Neg(delta), hn::Zero(d)));
    hn::Store(hn::Mul(hn::Load(d, b->sum + q), factor), d, b->sum + q);
    for (Index c = 0; c < p_.v_dim && !b->empty; ++c) {
      float* o = b->o + c * kQueries + q;
      hn::Store(hn::Mul(hn::Load(d, o), factor), d, o);
    }
  }

  // Lines of row q, ahead of use.
  void FetchInput(const QueryBlock& b, int q) const {
    const Index query = b.first + q * b.step;
    if (query < 0 || query >= p_.queries) return;
    Fetch(in_.q, b, query, p_.head_dim);
    if (resume_) FetchLines(resume_.out + PartialRow(b, q) * resume_.row_stride, 4 * p_.v_dim);
  }
  void FetchOutput(const QueryBlock& b, int q) const {
    if (save_)
      FetchLines(save_.out + PartialRow(b, q) * save_.row_stride, 4 * p_.v_dim);
    else
      Fetch(out_.out, b, b.first + q * b.step, p_.v_dim);
  }

  void Finish(const QueryBlock& b) const;

 private:
  using W = Words<T>;

  void Fetch(const ConstTensor& t, const QueryBlock& b, Index query, Index columns) const {
    const Index bytes = static_cast<Index>(SizeOf(t.dtype));
    const Index row = b.batch * t.batch_stride + b.head * t.head_stride + query * t.row_stride;
    FetchLines(static_cast<const std::byte*>(t.data) + row * bytes, columns * bytes);
  }

  // Sums under it are of rows without admitted keys: at most one 2^-126 a key.
  static constexpr float kNoKey = 1e-20f;

  // Vector v of the block's rows in a tensor.
  template <class TX, class Tensor>
  LaneRows<TX> RowsOf(const Tensor& tensor, const QueryBlock& b, int v) const {
    return {tensor.template Row<std::remove_const_t<TX>>(b.batch, b.head,
                                                         b.first + v * kLanes * b.step),
            tensor.row_stride * b.step, std::clamp(b.rows - v * kLanes, 0, kLanes)};
  }

  // Lanes beyond the block's rows repeat the last one; their results are dropped.
  HWY_NOINLINE void PackQueries(const QueryBlock& b) const {
    for (int v = 0; v < kVectors; ++v) {
      float* to = b.q + v * kLanes;
      if (v * kLanes >= b.rows) {
        for (Index c = 0; c < QueryWords(); ++c) hn::Store(hn::Zero(DF()), DF(), to + c * kQueries);
      } else if constexpr (W::kElements == 2) {
        const auto rows = RowsOf<const BFloat16>(in_.q, b, v);
        TransposePairs(rows, p_.head_dim, to, kQueries);
      } else if (p_.dtype == DType::kBF16) {
        TransposeIn(RowsOf<const BFloat16>(in_.q, b, v), p_.head_dim, LogitFactor(), to, kQueries);
      } else {
        const auto rows = RowsOf<const float>(in_.q, b, v);
        TransposeIn(rows, p_.head_dim, LogitFactor(), to, kQueries);
      }
    }
  }

  // Divides by the sums and transposes into the output's rows. Rows that are not finite are done
  // again by the definition; rows without keys are told by their sums.
  template <class TO>
  HWY_INLINE void WriteOutAs(const QueryBlock& b) const {
    const DF d;
    for (int v = 0; v * kLanes < b.rows; ++v) {
      const LaneRows<TO> rows = RowsOf<TO>(out_.out, b, v);
      const float* o = b.o + v * kLanes;
      const VF sum = hn::Load(d, b.sum + v * kLanes);
      VF check = hn::Mul(sum, hn::Zero(d));  // NaN if anything is not finite
      if (!b.empty) {
        check = hn::Add(check, ZeroOrNaN(o));
        TransposeOut(o, kQueries, p_.v_dim, hn::Div(hn::Set(d, 1.0f), sum), rows);
      }
      const auto usual = hn::Ge(hn::Add(sum, check), hn::Set(d, kNoKey));
      HWY_ALIGN float finite[kLanes];
      hn::Store(check, d, finite);
      for (int lane = 0; lane < rows.count; ++lane) {
        const int q = v * kLanes + lane;
        const Index query = b.first + q * b.step;
        if (!b.empty && hn::AllTrue(d, usual) && !out_.lse) break;
        if (finite[lane] != 0.0f) {
          RecomputeRow(p_, in_, out_, b.batch, b.head, query);
          continue;
        }
        const bool none = b.empty || b.sum[q] < kNoKey;
        if (none) std::fill_n(rows.template Row<true>(lane), p_.v_dim, TO{});
        if (out_.lse)
          out_.lse[(b.batch * p_.heads + b.head) * p_.queries + query] =
              none ? -HUGE_VALF
                   : (std::log2(b.sum[q]) - b.start[q] - W::kLog2Factor) * 0.693147180559945f;
      }
    }
  }
  // Sums over the columns in four chains: one would wait for itself.
  HWY_INLINE VF ZeroOrNaN(const float* o) const {
    const DF d;
    const VF zero = hn::Zero(d);
    VF sums[4] = {zero, zero, zero, zero};
    Index c = 0;
    for (; c + 4 <= p_.v_dim; c += 4) {
      Unroll<4>([&](auto i) ATTNBENCH_INLINED {
        sums[i] = hn::MulAdd(hn::Load(d, o + (c + i) * kQueries), zero, sums[i]);
      });
    }
    for (; c < p_.v_dim; ++c) sums[0] = hn::MulAdd(hn::Load(d, o + c * kQueries), zero, sums[0]);
    return hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  }

  Index PartialRow(const QueryBlock& b, int q) const {
    return (b.batch * p_.heads + b.head) * p_.queries + b.first + q * b.step;
  }
  template <class TX>
  LaneRows<TX> PartialRows(const Partial& partial, const QueryBlock& b, int v) const {
    return {partial.out + PartialRow(b, v * kLanes) * partial.row_stride,
            partial.row_stride * b.step, std::clamp(b.rows - v * kLanes, 0, kLanes)};
  }
  HWY_NOINLINE void Save(const QueryBlock& b) const {
    if (b.empty) std::fill_n(b.o, p_.v_dim * kQueries, 0.0f);
    for (int v = 0; v * kLanes < b.rows; ++v) {
      TransposeOut(b.o + v * kLanes, kQueries, p_.v_dim, hn::Set(DF(), 1.0f),
                   PartialRows<float>(save_, b, v));
    }
    for (int q = 0; q < b.rows; ++q) {
      const Index row = PartialRow(b, q);
      save_.start[row] = b.start[q], save_.sum[row] = b.sum[q];
    }
  }
  HWY_NOINLINE void Resume(QueryBlock* b) const {
    for (int v = 0; v * kLanes < b->rows; ++v) {
      TransposeIn(PartialRows<const float>(resume_, *b, v), p_.v_dim, 1.0f, b->o + v * kLanes,
                  kQueries);
    }
    for (int q = 0; q < b->rows; ++q) {
      const Index row = PartialRow(*b, q);
      b->start[q] = resume_.start[row], b->sum[q] = resume_.sum[row];
      if (!(b->sum[q] < kNoKey)) b->low[q] = -HUGE_VALF;
    }
    b->empty = false;
  }

  const Problem& p_;
  const Inputs in_;
  const Output out_;
  const AttendOptions options_;
  Partial save_, resume_;
};

template <class T>
void BlockEnds<T>::Start(QueryBlock* b) const {
  PackQueries(*b);
  b->empty = true;
  std::fill_n(b->start, kQueries, 0.0f);
  std::fill_n(b->sum, kQueries, 0.0f);
  std::fill_n(b->low, kQueries, -Threshold());
  if (resume_) Resume(b);
}

template <class T>
void BlockEnds<T>::Finish(const QueryBlock& b) const {
  if (save_) return Save(b);
  out_.out.dtype == DType::kBF16 ? WriteOutAs<BFloat16>(b) : WriteOutAs<float>(b);
}

extern template class BlockEnds<float>;  // compiled by attend.cc
#if HWY_TARGET <= HWY_AVX3_ZEN4
extern template class BlockEnds<BFloat16>;
#endif

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
